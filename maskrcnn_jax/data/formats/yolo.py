"""YOLO segmentation: ``data.yaml``, and a text file of outlines for each image.

A line is the number of a class and an outline x0 y0 x1 y1 ... in fractions of the image.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_jax.data.findings import short
from maskrcnn_jax.data.formats import files, geometry
from maskrcnn_jax.data.formats.collection import Collection, Entry
from maskrcnn_jax.data.outlines import Unusable
from maskrcnn_jax.data.values import number, whole

SPLITS = ("train", "val", "valid", "test")
_MAX_BYTES = 1 << 20  # Of data.yaml.
_MOST = 1.5  # A fraction of an image that is no mistake.


def matches(source: Path) -> bool:
    """Whether there is a data.yaml, or another yaml file with names of classes."""
    return _yaml(source) is not None


def image_folder(source: Path) -> Path:
    """File names start at the folder of data.yaml."""
    return files.folder(source)


def _yaml(source: Path) -> Path | None:
    if source.is_file():
        return source if source.suffix.lower() in (".yaml", ".yml") else None
    found = [source / name for name in ("data.yaml", "data.yml", "dataset.yaml")]
    return next((path for path in found if path.is_file()), None)


def read(source: Path, collection: Collection, split: str | None = None) -> None:
    """Reads a data set.

    Args:
        source: The folder, or the yaml file in it.
        collection: Gets images and objects.
        split: A key of the yaml file with folders of images, such as "train". By default all.

    Raises ValueError if the yaml file is broken, or leads out of its folder.
    """
    path = _yaml(source)
    if path is None:
        raise ValueError(f"there is no data.yaml in {source}")
    content = _load(path)
    names = _names(content.get("names"), path)
    collection.list_categories(list(names.values()))
    for image in _images(content, split, path):
        name = image.relative_to(path.parent).as_posix()
        entry = collection.image(name, name)
        if entry is not None:
            _read_labels(_labels(image, path.parent), names, entry, collection)


def _load(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has more than a megabyte, which no data.yaml needs")
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is no YAML: {short(str(error), 200)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected names, and folders of images under train or val")
    return content


def _names(names: Any, path: Path) -> dict[int, str]:
    """The names of classes by their numbers."""
    given = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(given, dict) or not given:
        raise ValueError(f"{path}: expected a list of classes under names")
    # No other values are printed: YAML may repeat a value without end.
    if not all(isinstance(x, str | int) and not isinstance(x, bool) for x in given.values()):
        raise ValueError(f"{path}: names have to be text; put yes, no, on and off in quotes")
    found = {whole(i): str(name) for i, name in given.items()}
    if None in found or not all(found.values()) or len(set(found.values())) < len(given):
        known = short(", ".join(found.values()), 200)
        raise ValueError(f"{path}: names have to differ, with whole numbers: {known}")
    return dict(sorted(found.items()))


def _images(content: dict[str, Any], split: str | None, path: Path) -> Iterator[Path]:
    """The image files of a split, or of all."""
    chosen = [name for name in SPLITS if content.get(name)] if split is None else [split]
    if not chosen or not content.get(chosen[0]):
        known = ", ".join(name for name in SPLITS if content.get(name)) or "no split"
        raise ValueError(f"{path} has no {split or ' or '.join(SPLITS)}; it has {known}")
    for name in chosen:
        entries = content[name] if isinstance(content[name], list) else [content[name]]
        for entry in entries:
            yield from files.below(_place(entry, content.get("path"), path), *files.IMAGES)


def _place(entry: Any, start: Any, path: Path) -> Path:
    """The folder of an entry: below ``path`` of the file if that is here, else below the file.

    A step upwards at its start is left out if there is no such folder, as ultralytics does:
    Roboflow writes ``../train/images`` for ``train/images``.
    """
    if not isinstance(entry, str) or not isinstance(start, str | None):
        raise ValueError(f"{path}: expected folders as text under path and the splits")
    entry, top = entry.replace("\\", "/"), Path(os.path.abspath(path.parent))
    starts = [top / start.replace("\\", "/"), top] if start else [top]
    tried = [begin / name for name in (entry, entry.removeprefix("../")) for begin in starts]
    for place in (Path(os.path.normpath(place)) for place in tried):
        if os.path.isdir(place) and place.is_relative_to(top):
            return path.parent / place.relative_to(top)
    raise ValueError(
        f"{path}: there is no folder {short(entry, 100)} in {path.parent}; lists of images in "
        "text files and folders elsewhere are not read"
    )


def _labels(image: Path, top: Path) -> Path:
    """The text file of an image: in ``labels`` for the last folder ``images``, or beside it."""
    steps = list(image.relative_to(top).with_suffix(".txt").parts)
    if "images" in steps[:-1]:
        last = max(i for i, step in enumerate(steps[:-1]) if step == "images")
        steps[last] = "labels"
    return top.joinpath(*steps)


def _read_labels(path: Path, names: dict[int, str], image: Entry, collection: Collection) -> None:
    if not path.is_file():
        kind = "images without a file of labels, which count as images without objects"
        return collection.findings.add(kind, image["file_name"], "image")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError):
        kind = "files left out, which cannot be read"
        return collection.findings.add(kind, path.name, "file")
    for index, line in enumerate(lines, start=1):
        if line.strip():
            where = f"line {index} of {path.name} ({image['file_name']})"
            try:
                _read_line(line.split(), names, image, where, collection)
            except Unusable as problem:
                collection.leave_out(problem, where)


def _read_line(
    words: list[str], names: dict[int, str], image: Entry, where: str, collection: Collection
) -> None:
    """Adds an object. Raises Unusable."""
    label = whole(number(words[0]))
    if label not in names:
        raise Unusable(f"whose class is none of the {len(names)} in data.yaml")
    values = geometry.numbers(*words[1:])
    if values and max(map(abs, values)) > _MOST:
        raise Unusable("whose coordinates are no fractions of the image")
    width, height = image["width"], image["height"]
    if len(values) == 4:  # A box has a centre, a width and a height.
        x, y, w, h = (value * side for value, side in zip(values, (width, height) * 2, strict=True))
        collection.add_box(image, names[label], [x - w / 2, y - h / 2, w, h], where)
        return
    sides = (width, height) * (len(values) // 2 + 1)
    outline = [value * side for value, side in zip(values, sides, strict=False)]
    collection.add(image, names[label], [[outline]], where)
