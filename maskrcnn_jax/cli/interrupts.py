"""Ctrl-C at any moment."""

import os
import signal
import sys
import threading
from typing import Any

_SECONDS = 0.01


def keep() -> None:
    """Repeats a Ctrl-C that came where Python ignores errors, such as in a callback of its memory.

    Python would print a traceback there, and the command would go on.
    """
    previous = sys.unraisablehook

    def hook(found: Any) -> None:
        if found.exc_type is KeyboardInterrupt:
            threading.Timer(_SECONDS, os.kill, [os.getpid(), signal.SIGINT]).start()
        else:
            previous(found)

    sys.unraisablehook = hook
