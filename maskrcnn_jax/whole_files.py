"""Files that are written whole or not at all, and errors of writing that name the file.

Errors of writing name no file: "No space left on device".
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields another name in the same folder, for a file that then replaces ``path``.

    After an error or an interruption ``path`` is what it was before. The other name has the same
    suffix. Only a killed process leaves a file of that name, which begins with a dot.

    Raises:
        OSError: The file cannot be written; the message names ``path``.
    """
    path = Path(path)
    # The stem is cut, because a name may have 255 bytes only.
    temporary = path.with_name(f".{path.stem[:40]}.{os.getpid()}.partial{path.suffix}")
    try:
        with naming(path):
            yield temporary
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # On a disk that is read-only now.
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Writes text as UTF-8; see `replacing` for the errors."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Raises an OSError of the block again with a message that names the file."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
