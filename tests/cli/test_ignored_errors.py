"""Ctrl-C is never lost, and futures of tensorstore that nobody waits for print nothing."""

import subprocess
import sys

# Python ignores errors of finalisers. The handler stands for a Ctrl-C that arrives in one.
LOST = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell may start it without.
from maskrcnn_jax.cli import ignored_errors
ignored_errors.handle()

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

try:
    x = Interrupted()
    del x
    for _ in range(600):  # A signal just before a sleep would wait for its end.
        time.sleep(0.1)
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


SAVE = """
import asyncio, threading
import tensorstore
from maskrcnn_jax.cli import ignored_errors
ignored_errors.handle()
loop = asyncio.new_event_loop()
promise, future = tensorstore.Promise.new()

async def wait():
    await future

async def leave():
    asyncio.ensure_future(wait()).add_done_callback(id)
    await asyncio.sleep(0)

loop.run_until_complete(leave())
loop.close()
thread = threading.Thread(target=promise.set_result, args=(1,))
thread.start()
thread.join()
"""


def test_what_tensorstore_prints_of_a_failed_save_is_hidden():
    """Tensorstore tells a loop that is closed about a write."""
    done = run(SAVE)
    assert done.returncode == 0 and "Event loop is closed" not in done.stderr, done.stderr


READ = """
from maskrcnn_jax.cli import ignored_errors
ignored_errors.handle()

async def wait():
    try:
        await Forever()
    except BaseException as error:
        raise Exception("cannot read") from error

class Forever:
    def __await__(self):
        yield

coroutine = wait()
coroutine.send(None)
del coroutine
print("done")
"""


def test_the_end_of_a_read_that_nobody_waits_for_is_hidden():
    """Orbax makes an error of the end of a coroutine."""
    done = run(READ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    shown = run(READ.replace("ignored_errors.handle()", ""))
    assert "cannot read" in shown.stderr
