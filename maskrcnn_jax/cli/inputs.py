"""The input files of a command, given by name, folder or pattern."""

import glob
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from maskrcnn_jax import video
from maskrcnn_jax.cli import outputs

# Images that Pillow does not read; `predict` names them instead of skipping them.
_UNREADABLE = (".heic", ".heif", ".jxl", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf")
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_STARTS += (b"II+\0", b"MM\0+", b"\x93NUMPY")


def expand(names: Sequence[str]) -> list[Path]:
    """Lists the files of names, folders and patterns.

    A folder stands for the images and videos in it, sorted; its subfolders are skipped, and so are
    drawings that `maskrcnn-jax predict` has put there. A file without a suffix is an image if it
    begins like one.

    Raises:
        FileNotFoundError: Some names match nothing. The message lists all such names.
        ValueError: A folder has no image or video.
    """
    paths, missing = [], []
    for name in names:
        path = Path(name)
        if path.is_dir():
            paths += _folder(path)
        elif path.exists():
            paths.append(path)
        elif matches := sorted(glob.glob(name, recursive=True)):
            paths += [Path(match) for match in matches if not Path(match).is_dir()]
        else:
            missing.append(name)
    if missing:
        advice = ": download what has an address first" if "://" in "".join(missing) else ""
        named = ", ".join(missing)
        raise FileNotFoundError(f"there is no file, folder or match for {named}{advice}")
    return paths


def is_video(path: Path) -> bool:
    """Whether the suffix of a file is that of a video."""
    return path.suffix.lower() in video.SUFFIXES


def _folder(folder: Path) -> list[Path]:
    drawn = outputs.written_by("maskrcnn-jax predict", folder)
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    found = sorted(path for path in visible if path.name not in drawn and _is_input(path))
    if not found:
        advice = f"for its subfolders, give '{folder}/**/*.jpg'"
        raise ValueError(f"there is no image or video in {folder}; {advice}")
    return found


def _is_input(path: Path) -> bool:
    Image.init()  # Fills in the suffixes.
    readable = {end for end, name in Image.registered_extensions().items() if name in Image.OPEN}
    readable |= {".npy"}
    if path.suffix.lower() in readable or path.suffix.lower() in _UNREADABLE + video.SUFFIXES:
        return True
    return not path.suffix and path.is_file() and _begins_like_an_image(path)


def _begins_like_an_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(12).startswith(_STARTS)
    except OSError:
        return False
