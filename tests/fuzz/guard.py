"""Limits of one example: memory, time, and that no code of the input runs."""

import contextlib
import faulthandler
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Every example may take this and a multiple of its input, in bytes of address space.
BASE, MULTIPLE = 64 << 20, 64
SECONDS = 10  # Of CPU time.
_STATM = Path("/proc/self/statm")  # Linux only; elsewhere memory has no limit.
# The audit events of Python before it starts a process, connects, or unpickles by name.
_EVENTS = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen"),
    *("pickle.find_class", "socket.connect", "socket.getaddrinfo", "urllib.Request"),
)
# Libraries that make functions of text, which is their own.
_GENERATORS = ("jaxtyping", "beartype", "dataclasses", "collections")

counts: dict[str, int] = {}  # Examples by the name of their test.
_ran: list[str] | None = None  # Forbidden events of the example; None between examples.


class TooSlow(BaseException):
    """An example took more than its CPU time; no `except Exception` hides that."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _ran is None:
        return
    is_code = event == "exec" and arguments[0].co_filename == "<string>"
    if event in _EVENTS or (is_code and not _caller().startswith(_GENERATORS)):
        _ran.append(f"{event}{arguments}"[:200])
        raise RuntimeError(f"forbidden in an example: {event}")


def _caller() -> str:
    return sys._getframe(2).f_globals.get("__name__", "")


sys.addaudithook(_watch)


def _stop(*_: object) -> None:
    raise TooSlow(f"more than {SECONDS} s")


@contextlib.contextmanager
def limits(test: str, num_bytes: int, base: int = BASE, multiple: int = MULTIPLE) -> Iterator[None]:
    """Limits what the block takes, and counts it as an example of a test.

    A loop in C that never ends is ended with the process, after the place was printed.

    Args:
        test: The name of the test.
        num_bytes: The size of the input.
        base: Bytes that any example may take.
        multiple: Bytes more for each byte of input.
    """
    global _ran
    counts[test] = counts.get(test, 0) + 1
    before = resource.getrlimit(resource.RLIMIT_AS)
    if _STATM.exists():
        used = int(_STATM.read_text().split()[0]) * resource.getpagesize()
        allowed = used + base + multiple * num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (allowed, before[1]))
    handler = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(20 * SECONDS, exit=True, file=sys.__stderr__)
    _ran = ran = []
    try:
        yield
    finally:
        _ran = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not ran, ran
