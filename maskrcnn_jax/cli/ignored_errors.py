"""Errors that Python would print with a traceback, and go on."""

import signal
import sys
import threading
from typing import Any

_SECONDS = 0.01  # Until a Ctrl-C comes again.


def handle() -> None:
    """Repeats a Ctrl-C that came in a callback, where Python ignores it; hides abandoned futures.

    When Orbax cannot read or write an array, it leaves the others behind in a closed event loop.
    Python would print hundreds of lines when tensorstore tells that loop about one, or when the
    coroutine that waits for it is collected. `Checkpoints` and `run_directory` raise the error
    itself.
    """
    previous = sys.unraisablehook

    def hook(found: Any) -> None:
        if found.exc_type is KeyboardInterrupt:
            # To the main thread: a signal to the process may reach another, and wakes no sleep.
            thread = threading.main_thread().ident
            threading.Timer(_SECONDS, signal.pthread_kill, [thread, signal.SIGINT]).start()
        elif not _is_abandoned(found.exc_value):
            previous(found)

    sys.unraisablehook = hook


def _is_abandoned(error: BaseException | None) -> bool:
    """Whether an error says only that nobody waits for a coroutine any more."""
    if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
        return True
    return isinstance(getattr(error, "__cause__", None), GeneratorExit)
