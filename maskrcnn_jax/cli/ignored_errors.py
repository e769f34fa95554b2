"""Errors that Python would print with a traceback, and go on."""

import signal
import sys
import threading
from typing import Any

_SECONDS = 0.01  # Until a Ctrl-C comes again.


def handle() -> None:
    """Repeats a Ctrl-C that came in a callback, where Python ignores it; hides abandoned futures.

    When Orbax cannot read or write an array, tensorstore tells a closed event loop about all the
    others: hundreds of lines. `Checkpoints` and `run_directory` raise the error itself.
    """
    previous = sys.unraisablehook

    def hook(found: Any) -> None:
        if found.exc_type is KeyboardInterrupt:
            # To the main thread: a signal to the process may reach another, and wakes no sleep.
            thread = threading.main_thread().ident
            threading.Timer(_SECONDS, signal.pthread_kill, [thread, signal.SIGINT]).start()
        elif found.exc_type is not RuntimeError or str(found.exc_value) != "Event loop is closed":
            previous(found)

    sys.unraisablehook = hook
