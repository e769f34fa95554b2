"""Checks the output paths of a command before its long work begins.

A command replaces a file only if the same command has written it and nobody has changed it since.
Each folder of outputs has a file `outputs.json` that lists what commands have written there, with
the command and a digest. While a file is being written, its digest is null.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from maskrcnn_jax import whole_files

NAME = "outputs.json"
_NUM_NAMED = 3  # Files that a refusal names.
_ADDRESS = re.compile("[a-z][a-z0-9]+:/")  # Of a path, which writes "gs://bucket" as "gs:/bucket".
_SECONDS = 1  # Between two updates of the lists while a command works.
_ABOUT = "Files that commands of maskrcnn_jax wrote here. A command replaces only its own."


@contextlib.contextmanager
def claim(
    command: str,
    paths: Iterable[Path],
    *,
    inputs: Iterable[str | Path | None] = (),
    force: bool = False,
) -> Iterator[Callable[..., None]]:
    """Checks all outputs of a command before its work, and lists those written after it.

    Args:
        command: The command, as the list names it.
        paths: The files that the command is going to write.
        inputs: Files and folders that the command reads; None and names of releases are skipped.
        force: Whether to replace files that the command has not written. Inputs are never replaced.

    Yields:
        A function to call with the files that are about to be written. A command that is killed
        then may replace them when it is repeated; of many calls in a second, only the first counts
        for that.

    Raises:
        ValueError: An output exists and may not be replaced. The message names the first such
            files. Nothing is written then.
    """
    check(command, paths, inputs=inputs, force=force)
    written: dict[Path, None] = {}
    listed_at = -math.inf

    def add(*paths: Path) -> None:
        nonlocal listed_at
        written.update(dict.fromkeys(paths))
        if time.monotonic() - listed_at > _SECONDS:
            _list(command, dict.fromkeys(written, None))
            listed_at = time.monotonic()

    try:
        yield add
    except BaseException:  # What was written before an error or an interruption is listed too.
        with contextlib.suppress(OSError):  # The disk may be full; the first error says so.
            _settle(command, written)
        raise
    _settle(command, written)


def check(
    command: str,
    paths: Iterable[Path],
    *,
    inputs: Iterable[str | Path | None] = (),
    force: bool = False,
) -> None:
    """Checks outputs as `claim` does; same arguments and errors."""
    paths = list(dict.fromkeys(map(Path, paths)))
    given = [Path(given) for given in inputs if given is not None]
    inputs = [path.resolve() for path in given if path.exists()]
    files = {_identity(given) for given in inputs if given.is_file()}
    folders = {given for given in inputs if given.is_dir()}
    listed = {folder: _parse(folder / NAME) for folder in {path.parent for path in paths}}
    read, foreign = [], []
    for path in filter(os.path.lexists, paths):
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory: give another name or place")
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is a device or a pipe: give the name of a file")
        entry = (listed[path.parent] or {}).get(path.name)
        is_below = entry is None and not folders.isdisjoint(path.resolve().parents)
        if (path.exists() and _identity(path) in files) or is_below:
            read.append(path)
        elif not _is_own(entry, command, path):
            foreign.append(path)
    for folder, entries in listed.items():
        if entries is None and os.path.lexists(folder / NAME):
            foreign.append(folder / NAME)  # It is not a list of ours.
    if read:
        raise ValueError(
            f"{_named(read)} would overwrite what the command reads: give another directory"
        )
    if foreign and not force:
        raise ValueError(
            f"{_named(foreign)} exists and was not written by {command}, or was changed since: "
            "--force replaces it"
        )


def written_by(command: str, folder: Path) -> set[str]:
    """The names of the files in a folder that a command has written."""
    entries = _read(folder / NAME).items()
    return {name for name, entry in entries if entry.get("command") == command}


def _is_own(entry: dict[str, str | None] | None, command: str, path: Path) -> bool:
    """Whether a command has written a file, and nobody has changed it."""
    if entry is None or entry.get("command") != command or path.is_symlink():
        return False
    return entry.get("sha256") in (None, _digest(path))


def _list(command: str, digests: dict[Path, str | None]) -> None:
    """Adds files to the lists of their folders, if these exist."""
    for folder in {path.parent for path in digests}:
        if not folder.is_dir():
            continue
        own = {path.name: x for path, x in digests.items() if path.parent == folder}
        entries = {name: {"command": command, "sha256": x} for name, x in own.items()}
        _write(folder, _read(folder / NAME) | entries)


def _settle(command: str, written: Iterable[Path]) -> None:
    """Lists the files with their digests, once a command has ended."""
    _list(command, {path: _digest(path) for path in written if path.is_file()})
    _forget([path for path in written if not path.exists()])


def _forget(paths: list[Path]) -> None:
    """Removes files that do not exist from the lists of their folders."""
    for folder in {path.parent for path in paths if (path.parent / NAME).exists()}:
        gone = {path.name for path in paths if path.parent == folder}
        _write(folder, {k: v for k, v in _read(folder / NAME).items() if k not in gone})


def _write(folder: Path, entries: dict[str, dict[str, str | None]]) -> None:
    content = {"about": _ABOUT, "files": entries}
    whole_files.write_text(folder / NAME, json.dumps(content, indent=1) + "\n")


def _read(path: Path) -> dict[str, dict[str, str | None]]:
    """The entries of a list by file name; empty if the file is absent or is no such list."""
    return _parse(path) or {}


def _parse(path: Path) -> dict[str, dict[str, str | None]] | None:
    """The entries of a list by file name; None if the file is absent or is no such list."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = content["files"] if content["about"] == _ABOUT else None
        return {name: entry for name, entry in files.items() if isinstance(entry, dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(path: Path) -> str | None:
    """The SHA-256 of a file in hexadecimal; None for a link, which leads somewhere else."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> tuple[int, int]:
    """Identifies a file by any of its names."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _named(paths: list[Path]) -> str:
    rest = f" and {len(paths) - _NUM_NAMED} more" if len(paths) > _NUM_NAMED else ""
    return ", ".join(map(str, paths[:_NUM_NAMED])) + rest


def check_directory(path: Path, option: str = "--output") -> None:
    """Raises NotADirectoryError if the directory of an option cannot be.

    A file is there, or the path is an address, of which a folder on this machine would be made.
    """
    if _ADDRESS.match(str(path)):
        raise NotADirectoryError(f"{option} {path} is an address: give a directory here")
    absolute = path.absolute()
    nearest = next(x for x in (absolute, *absolute.parents) if os.path.lexists(x))
    if not nearest.is_dir():
        raise NotADirectoryError(f"{option} {path} is a file, or is in one: give a directory")


def make_directory(path: Path, option: str = "--output") -> None:
    """Makes the output directory that an option names, with its parents, unless it exists.

    Raises:
        OSError: A file has that name, or the directory is not writable. The message names the
            path and advises.
    """
    check_directory(path, option)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{option} {path} cannot be made: {error.strerror}; give another directory"
        raise OSError(message) from error
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{option} {path} cannot be written to: give another directory")


def check_file(path: Path) -> None:
    """Raises OSError with the path if no file can be written there."""
    folder = path.absolute().parent
    if not folder.is_dir():
        advice = f"make it first, or write {path.name} elsewhere"
        raise FileNotFoundError(f"there is no directory {folder}: {advice}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: give the name of a file in it")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written to: write {path.name} elsewhere")
