"""Ctrl-C while a command starts: the process ends at once, without a traceback."""

import signal
import subprocess
import sys

import pytest

BEGIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell may start it without.
"""
# Ctrl-C comes as jax is imported.
START = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv = ["maskrcnn-jax", "convert", "absent.pth", "new.npz"]
from maskrcnn_jax.__main__ import main
main()
"""
RAISED = """
from maskrcnn_jax.cli import interrupts
interrupts.end_at_once()
interrupts.raise_again()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("raised")
"""
IGNORED = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
from maskrcnn_jax.cli import interrupts
interrupts.end_at_once()
interrupts.raise_again()
signal.raise_signal(signal.SIGINT)
print("ignored")
"""


def run(program):
    command = [sys.executable, "-c", BEGIN + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_command_that_starts_ends_by_the_signal():
    assert run(START) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("program, printed", [(RAISED, "raised\n"), (IGNORED, "ignored\n")])
def test_later_it_is_raised_and_where_it_is_ignored_it_stays_so(program, printed):
    assert run(program) == (0, printed, "")
