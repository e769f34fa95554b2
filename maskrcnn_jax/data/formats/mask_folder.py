"""A folder of instance masks, of one category.

Either a PNG for each image, named as the image, whose pixels are 0 or the id of an object; or a
folder for each image, named as the image, with a PNG for each object in it or in its subfolder
``masks``. The second may hold the image itself, in a subfolder ``images``.
"""

from pathlib import Path

from maskrcnn_jax.data.formats import files, id_masks
from maskrcnn_jax.data.formats.collection import Collection
from maskrcnn_jax.data.outlines import Unusable

CATEGORY = "object"


def matches(source: Path) -> bool:
    """Whether there are PNG files."""
    return source.is_dir() and any(files.below(source, ".png"))


def image_folder(source: Path) -> Path:
    """Images lie below the folder itself if it has subfolders ``images``."""
    if any(path.is_dir() for path in source.glob("*/images")):
        return source
    raise ValueError(f"--images DIR has to say where the images of the masks in {source} lie")


def read(source: Path, collection: Collection) -> None:
    """Reads a folder of masks."""
    pictures = files.images_by_stem(collection.folder)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            masks = path / "masks" if (path / "masks").is_dir() else path
            _read_folder(path.name, list(files.below(masks, ".png")), pictures, collection)
        elif path.suffix.lower() == ".png" and not path.name.startswith("."):
            _read_ids(path, pictures, collection)


def _read_ids(path: Path, pictures: dict[str, str], collection: Collection) -> None:
    """Adds an image, and an object for each id in its mask."""
    try:
        ids = id_masks.read(path)
        objects = id_masks.objects(ids)
    except Unusable as problem:
        return collection.leave_out(problem, path.name, "image")
    image = collection.image(pictures.get(path.stem, path.stem), path.name, ids.shape)
    if image is None:
        return
    if list(objects) == [255]:
        kind = "images whose mask has the values 0 and 255 only, which make one object"
        collection.findings.add(kind, path.name, "image")
    for value, mask in objects.items():
        collection.add(image, CATEGORY, [mask], f"id {value} of {path.name}")


def _read_folder(
    name: str, masks: list[Path], pictures: dict[str, str], collection: Collection
) -> None:
    """Adds an image, and an object for each of its masks: the pixels above 0."""
    image = collection.image(pictures.get(name, name), name)
    if image is not None and not masks:
        kind = "images with a folder without masks, which count as images without objects"
        collection.findings.add(kind, name, "image")
    for path in masks if image is not None else ():
        where = f"{path.name} of {name}"
        try:
            ids = id_masks.read(path)
            if ids.shape != (image["height"], image["width"]):
                raise Unusable("whose mask is of another size than the image")
            objects = id_masks.objects((ids > 0).astype("int32"))
        except Unusable as problem:
            collection.leave_out(problem, where)
            continue
        if not objects:
            collection.leave_out("whose mask covers no pixel", where)
        for mask in objects.values():
            collection.add(image, CATEGORY, [mask], where)
