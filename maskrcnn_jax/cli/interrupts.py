"""Ctrl-C while a command starts or ends, when there is nothing to save or to say."""

import signal


def end_at_once() -> None:
    """Lets Ctrl-C end the process by the signal itself.

    As an exception it would show a traceback from the middle of an import, and some compiled
    modules crash if it comes while they are imported. Does nothing where Ctrl-C is ignored, as in a
    job that a shell starts in the background.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Undoes `end_at_once`: Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
