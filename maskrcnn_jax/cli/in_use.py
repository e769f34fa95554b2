"""One command at a time works in a directory: a lock that the system frees when a process dies."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from maskrcnn_jax import whole_files

NAME = ".lock"  # Never deleted: one process could lock the deleted file and another a new one.
_HELD = (errno.EAGAIN, errno.EACCES)  # Which of them depends on the file system.


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory. A file system without locks is not locked.

    Raises:
        ValueError: Another process holds the lock; the message names it.
        OSError: The file of the lock cannot be written; the message names it.
    """
    path = directory / NAME
    with whole_files.naming(path):
        file = path.open("ab+", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise ValueError(_refusal(directory, path)) from error
        with contextlib.suppress(OSError):  # On a full disk the lock holds without a name.
            file.truncate(0)
            file.write(_name().encode())
        yield


def _name() -> str:
    program, host = Path(sys.argv[0]).name, socket.gethostname()
    return f"{program}, process {os.getpid()} of {host}, since {time.strftime('%F %T')}"


def _refusal(directory: Path, path: Path) -> str:
    holder = path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    return f"{directory} is in use by {holder}: wait until it has ended, or give another directory"
