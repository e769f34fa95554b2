"""Checks the output paths of a command before its long work begins."""

import os
from pathlib import Path


def make_directory(path: Path, option: str = "--output") -> None:
    """Makes the output directory that an option names, with its parents, unless it exists.

    Raises:
        OSError: A file has that name, or the directory is not writable. The message names the
            path and advises.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        message = f"{option} {path} is a file, or is in one: give a directory"
        raise NotADirectoryError(message) from error
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
