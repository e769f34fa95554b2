"""LabelMe: a json file for each image, with ``shapes`` and ``imagePath``."""

import posixpath
from pathlib import Path
from typing import Any

from maskrcnn_jax.data.findings import short
from maskrcnn_jax.data.formats import files, geometry
from maskrcnn_jax.data.formats.collection import Collection, Entry
from maskrcnn_jax.data.outlines import Unusable
from maskrcnn_jax.data.values import whole


def matches(source: Path) -> bool:
    """Whether one of the first json files is LabelMe's."""
    return any(_is_labelme(content) for content in files.first_json(source))


def image_folder(source: Path) -> Path:
    """Images lie beside their json files."""
    return files.folder(source)


def _is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def read(source: Path, collection: Collection) -> None:
    """Reads a json file, or all in a folder and its subfolders."""
    for path in [source] if source.is_file() else files.below(source, ".json"):
        name = path.relative_to(files.folder(source)).as_posix()
        content = collection.json(path, name)
        if content is None:
            continue
        if not _is_labelme(content):
            kind = "files left out, which are no annotations of LabelMe"
            collection.findings.add(kind, name, "file")
            continue
        image = _image(content, name, collection)
        if image is not None:
            _read_shapes(content["shapes"], name, image, collection)


def _image(content: Entry, name: str, collection: Collection) -> Entry | None:
    path = content["imagePath"]
    if isinstance(path, str) and path:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), path.replace("\\", "/")))
    size = whole(content.get("imageHeight")), whole(content.get("imageWidth"))
    return collection.image(path, name, size)


def _read_shapes(shapes: Any, name: str, image: Entry, collection: Collection) -> None:
    """Adds the objects of an image. Shapes of one label and one ``group_id`` are one object."""
    objects: dict[Any, tuple[str, Any, list]] = {}
    for index, shape in enumerate(shapes if isinstance(shapes, list) else [shapes]):
        where = f"shapes[{index}] of {name}"
        try:
            part = _part(shape, image)
        except Unusable as problem:
            collection.leave_out(problem, where)
            continue
        label, group = shape.get("label"), shape.get("group_id")
        key = index if group is None else (short(label, 1000), short(group, 1000))
        objects.setdefault(key, (where, label, []))[2].append(part)
    for where, label, parts in objects.values():
        collection.add(image, label, parts, where)


def _part(shape: Any, image: Entry) -> Any:
    """The mask of a shape. Raises Unusable."""
    if not isinstance(shape, dict):
        raise Unusable("which are no objects with fields")
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if kind == "polygon":
        return [points]
    if kind == "rectangle":
        return geometry.rectangle(*geometry.corners(points))
    if kind == "circle":  # The centre, and a point of the circle.
        x, y, x1, y1 = geometry.corners(points)
        radius = ((x1 - x) ** 2 + (y1 - y) ** 2) ** 0.5
        return geometry.ellipse(x, y, radius, radius)
    if kind == "mask":
        return geometry.pasted(shape.get("mask"), points, image["height"], image["width"])
    raise Unusable(f"whose shape is a {short(kind)}, which has no area")
