"""The input files of a command, given by name, folder or pattern."""

import glob
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_jax import video

_IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


def expand(names: Sequence[str]) -> list[Path]:
    """Lists the files of names, folders and patterns.

    A folder stands for the images and videos in it, sorted; its subfolders are skipped.

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
        raise FileNotFoundError(f"there is no file, folder or match for {', '.join(missing)}")
    return paths


def is_video(path: Path) -> bool:
    """Whether the suffix of a file is that of a video."""
    return path.suffix.lower() in video.SUFFIXES


def _folder(folder: Path) -> list[Path]:
    known = _IMAGE_SUFFIXES + video.SUFFIXES
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    found = sorted(path for path in visible if path.suffix.lower() in known)
    if not found:
        advice = f"for its subfolders, give '{folder}/**/*.jpg'"
        raise ValueError(f"there is no image or video in {folder}; {advice}")
    return found
