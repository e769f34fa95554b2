"""Pascal VOC: ids of objects in ``SegmentationObject``, of classes in ``SegmentationClass``."""

from pathlib import Path

import numpy as np

from maskrcnn_jax.data.findings import short
from maskrcnn_jax.data.formats import files, id_masks
from maskrcnn_jax.data.formats.collection import Collection
from maskrcnn_jax.data.outlines import Unusable

OBJECTS, CLASSES, IMAGES = "SegmentationObject", "SegmentationClass", "JPEGImages"
NAMES = (  # In the order of their ids, from 1.
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
).split(", ")
_VOID = 255  # Borders, and objects that are too hard.
# Where others list the names of their classes, background first, one on each line.
_NAME_FILES = ("class_names.txt", "labelmap.txt")


def matches(source: Path) -> bool:
    """Whether a folder has both folders of masks."""
    return (source / OBJECTS).is_dir() and (source / CLASSES).is_dir()


def image_folder(source: Path) -> Path:
    """Images lie in JPEGImages."""
    return source / IMAGES


def read(source: Path, collection: Collection, split: str | None = None) -> None:
    """Reads a folder such as VOC2012.

    Args:
        source: The folder.
        collection: Gets images and objects.
        split: A list in ImageSets/Segmentation, such as "train". By default all masks count.

    Raises FileNotFoundError or ValueError if a folder or the list is missing, or a list is broken.
    """
    if not matches(source):
        raise FileNotFoundError(f"there are no folders {OBJECTS} and {CLASSES} in {source}")
    names = _names(source)
    collection.list_categories(list(names.values()))
    chosen = _chosen(source, split)
    pictures = files.images_by_stem(collection.folder)
    for path in files.below(source / OBJECTS, ".png"):
        if chosen is not None and path.stem not in chosen:
            continue
        name = path.relative_to(source).as_posix()
        try:
            ids, classes = (id_masks.read(x) for x in (path, source / CLASSES / path.name))
            if ids.shape != classes.shape:
                raise Unusable("whose masks of objects and of classes differ in size")
            objects = id_masks.objects(ids, background=(0, _VOID))
        except Unusable as problem:
            collection.leave_out(problem, name, "image")
            continue
        image = collection.image(pictures.get(path.stem, f"{path.stem}.jpg"), name, ids.shape)
        for value, mask in objects.items() if image is not None else ():
            where = f"id {value} of {name}"
            category = _category(classes[ids == value], names, where, collection)
            if category is not None:
                collection.add(image, category, [mask], where)


def _names(source: Path) -> dict[int, str]:
    """The names of classes by id: of a list in the folder, else those of VOC."""
    path = next((source / name for name in _NAME_FILES if (source / name).is_file()), None)
    if path is None:
        return dict(enumerate(NAMES, start=1))
    lines = _lines(path)
    # CVAT writes name:colour:parts:actions. labelme2voc begins with __ignore__, which has no id.
    found = [line.partition(":")[0].strip() for line in lines if not line.startswith("#")]
    names = {i: name for i, name in enumerate(x for x in found if x != "__ignore__")}
    names.pop(0, None)
    if not names or len(set(names.values())) < len(names):
        raise ValueError(f"{path}: expected background and different classes, one on each line")
    return names


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error
    return [line for line in lines if line.strip()]


def _chosen(source: Path, split: str | None) -> set[str] | None:
    if split is None:
        return None
    folder = source / "ImageSets" / "Segmentation"
    path = folder / f"{Path(split).name}.txt"
    if not path.is_file():
        known = ", ".join(x.stem for x in files.below(folder, ".txt")) or "none"
        raise FileNotFoundError(f"there is no {path}; --split may be {known}")
    return {line.split()[0] for line in _lines(path)}


def _category(
    pixels: np.ndarray, names: dict[int, str], where: str, collection: Collection
) -> str | None:
    """The class of most pixels of an object, but for background and void."""
    values, counts = np.unique(pixels[(pixels != 0) & (pixels != _VOID)], return_counts=True)
    if not len(values):
        return collection.leave_out("which have no class", where)
    if len(values) > 1:
        kind = "objects with pixels of several classes; most pixels decide"
        collection.findings.add(kind, where, "object")
    value = int(values[counts.argmax()])
    if value not in names:
        return collection.leave_out(f"whose class id is none of {short(list(names), 60)}", where)
    return names[value]
