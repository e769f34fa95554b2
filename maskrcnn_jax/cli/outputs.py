"""Where a command is to write: looked at before the work, which may take long."""

import os
from pathlib import Path


def make_directory(path: Path, option: str = "--output") -> None:
    """Makes a directory, which an option of the command named, and its parents, unless they are there.

    Raises:
        OSError: A file is in the way, or nobody may write there. The message names it and says what to do.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{option} {path} is a file, or is in one: give a directory") from error
    except OSError as error:
        raise OSError(f"{option} {path} cannot be made: {error.strerror}; give another directory") from error
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{option} {path} cannot be written to: give another directory")


def check_file(path: Path) -> None:
    """Raises OSError, which names the path, unless a file can be written there."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no directory {folder}: make it first, or write {path.name} elsewhere")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: give the name of a file in it")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written to: write {path.name} elsewhere")
