"""Ctrl-C is never lost."""

import subprocess
import sys

# Python ignores errors of finalisers. The handler stands for a Ctrl-C that arrives in one.
LOST = """
import signal, time
from maskrcnn_jax.cli import interrupts
interrupts.keep()

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

try:
    x = Interrupted()
    del x
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


def run(program):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


def test_an_interruption_that_python_ignores_comes_again():
    result = run(LOST)
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")


def test_other_ignored_errors_are_shown():
    result = run(LOST.replace("signal.raise_signal(signal.SIGINT)", "1 / 0").replace("60", "0"))
    assert "ZeroDivisionError" in result.stderr and not result.stdout
