"""Printing by commands: to terminals that lack letters, full disks and closed pipes."""

import errno
import os
import sys

_LOST = (errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EFBIG, errno.EDQUOT)


def be_lenient() -> None:
    """Prints `?` for letters that a terminal lacks, and nothing to a stream that is closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # As after `command >&-`.
            setattr(sys, name, open(os.devnull, "w"))
        getattr(sys, name).reconfigure(errors="replace")


def flush() -> str:
    """Writes what is buffered; returns why that failed, or nothing.

    A stream that failed writes nowhere from then on. Otherwise Python would try again when it
    exits, and end with a traceback.
    """
    told = ""
    for name, stream in (("standard error", sys.stderr), ("standard output", sys.stdout)):
        try:
            stream.flush()
        except OSError as error:
            told = f"cannot write to {name}: {error.strerror}"
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return told


def explain(error: BaseException) -> str:
    """The message of an error. Errors of files name the file, those of streams name nothing."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _LOST:
        return f"cannot write to standard output or standard error: {error.strerror}"
    return str(error)


def number(count: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
