"""The files of a folder, for the readers of formats."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskrcnn_jax.data import annotation_files

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".npy")
_NUM_TRIED = 20  # Json files that decide on the format of a folder.


def folder(source: Path) -> Path:
    """The folder itself, or that of a file."""
    return source if source.is_dir() else source.parent


def below(top: Path, *endings: str) -> Iterator[Path]:
    """The files below a folder whose names end so in any case, sorted; hidden ones are skipped."""
    for path, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(endings) and not name.startswith("."):
                yield Path(path) / name


def images_by_stem(top: Path) -> dict[str, str]:
    """The images below a folder by their name without its ending; those in "masks" are skipped."""
    return {
        path.stem: path.relative_to(top).as_posix()
        for path in below(top, *IMAGES)
        if path.parent.name != "masks"
    }


def first_json(source: Path) -> Iterator[Any]:
    """The content of a json file, or of the first few below a folder; broken ones are skipped."""
    paths = [source] if source.is_file() else below(source, ".json")
    for path, _ in zip(paths, range(_NUM_TRIED), strict=False):
        try:
            yield annotation_files.parse(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
