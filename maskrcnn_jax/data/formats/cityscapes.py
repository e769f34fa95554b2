"""Cityscapes: ``gtFine`` polygons, of which later ones cover earlier ones."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from maskrcnn_jax.data import clipping, outlines
from maskrcnn_jax.data.formats import files, id_masks
from maskrcnn_jax.data.formats.collection import Collection, Entry
from maskrcnn_jax.data.outlines import Unusable
from maskrcnn_jax.data.values import whole, yes_or_no

ENDING = "_polygons.json"
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
# Surfaces, and what the benchmark of instances ignores.
NO_OBJECTS = (
    "unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, road, "
    "sidewalk, parking, rail track, building, wall, fence, guard rail, bridge, tunnel, pole, "
    "polegroup, traffic light, traffic sign, vegetation, terrain, sky, caravan, trailer, "
    "caravangroup, trailergroup, license plate"
).split(", ")


def matches(source: Path) -> bool:
    """Whether there are files of polygons in a folder."""
    return source.is_dir() and any(files.below(source, ENDING))


def image_folder(source: Path) -> Path:
    """Images lie in leftImg8bit, beside gtFine."""
    for top in (source, *source.absolute().parents[:2]):
        if (top / "leftImg8bit").is_dir():
            return top / "leftImg8bit"
    raise ValueError(f"there is no leftImg8bit beside {source}: --images DIR says where it is")


def read(source: Path, collection: Collection, split: str | None = None) -> None:
    """Reads all files of polygons below a folder.

    Args:
        source: The folder that has gtFine, or a folder in it.
        collection: Gets images and objects.
        split: A folder below, such as "train". By default all.
    """
    collection.list_categories(CLASSES)
    found = [path for path in files.below(source, ENDING)]
    if split is not None:
        found = [path for path in found if split in path.relative_to(source).parts[:-1]]
        if not found:
            raise FileNotFoundError(f"there is no folder {split} with polygons below {source}")
    for path in found:
        name = path.relative_to(source).as_posix()
        content = collection.json(path, name)
        if content is None:
            continue
        if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
            collection.leave_out("which are no polygons of Cityscapes", name, "file")
            continue
        size = whole(content.get("imgHeight")), whole(content.get("imgWidth"))
        stem = path.name.removesuffix(ENDING).rpartition("_")[0]  # Without gtFine.
        city = Path(*path.absolute().parts[-3:-1])  # In its split.
        image = collection.image((city / f"{stem}_leftImg8bit.png").as_posix(), name, size)
        if image is not None:
            _read_objects(content["objects"], name, image, collection)


def _read_objects(objects: list, name: str, image: Entry, collection: Collection) -> None:
    """Draws all polygons in their order, and adds what is visible of each object."""
    canvas = Image.new("I", (image["width"], image["height"]))
    drawing = ImageDraw.Draw(canvas)
    kept: dict[int, tuple[str, bool, str]] = {}
    for index, entry in enumerate(objects, start=1):
        where = f"objects[{index - 1}] of {name}"
        try:
            label, polygons, repairs = _polygons(entry, image)
        except Unusable as problem:
            collection.leave_out(problem, where)
            continue
        for repair in repairs:
            collection.findings.add(f"objects {repair}", where, "object")
        for polygon in polygons if label != "license plate" else ():  # It is part of its car.
            drawing.polygon(list(zip(polygon[::2], polygon[1::2], strict=True)), fill=index)
        if label in NO_OBJECTS:
            kind = "regions left out, which are no objects of the benchmark"
            collection.findings.add(kind, where, "region")
        else:
            stem = label.removesuffix("group")
            is_group = stem != label and stem != ""
            kept[index] = (stem if is_group else label, is_group, where)
    visible = id_masks.objects(np.asarray(canvas, np.int32), most=len(objects) + 1)
    for index, (label, is_group, where) in kept.items():
        if index in visible:
            collection.add(image, label, [visible[index]], where, is_crowd=is_group)
        else:
            collection.leave_out("which later objects cover", where)


def _polygons(entry: Any, image: Entry) -> tuple[str, list[list], list[str]]:
    """The label and the polygons of an object, and what was repaired. Raises Unusable."""
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
        raise Unusable("which have no label")
    if yes_or_no(entry.get("deleted")):
        raise Unusable("which are marked as deleted")
    size = image["height"], image["width"]
    found, repairs = outlines.read([entry.get("polygon")], *size)
    cut = [clipping.cut(polygon, *size) for polygon in found]
    return entry["label"], [polygon for polygon in cut if polygon], repairs
