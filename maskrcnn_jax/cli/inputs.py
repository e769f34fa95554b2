"""The files that a command is to read: named one by one, by folder, or by a pattern."""

import glob
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_jax import video

_IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def expand(names: Sequence[str]) -> list[Path]:
    """Files as they are; the images and videos of a folder, sorted, without its subfolders; what a pattern matches.

    Raises:
        FileNotFoundError: Files, folders or patterns for which there is nothing. The message names them all.
        ValueError: A folder without an image or video.
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
    """Whether the name of a file is that of a video."""
    return path.suffix.lower() in video.SUFFIXES


def _folder(folder: Path) -> list[Path]:
    known = _IMAGE_SUFFIXES + video.SUFFIXES
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in known and not p.name.startswith("."))
    if not found:
        raise ValueError(f"there is no image or video in {folder}; for its subfolders, give '{folder}/**/*.jpg'")
    return found
