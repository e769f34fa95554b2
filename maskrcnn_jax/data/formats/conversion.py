"""Finds the format of annotations, and converts them to COCO json."""

from pathlib import Path
from typing import Any, NamedTuple

from maskrcnn_jax.data import annotation_files
from maskrcnn_jax.data.findings import Findings
from maskrcnn_jax.data.formats import cityscapes, files, labelme, mask_folder, via, voc, yolo
from maskrcnn_jax.data.formats.collection import Collection

FORMATS = {
    "labelme": labelme,
    "via": via,
    "yolo": yolo,
    "voc": voc,
    "cityscapes": cityscapes,
    "masks": mask_folder,  # The last one: folders of other formats have PNG files too.
}
WITH_SPLITS = ("yolo", "voc", "cityscapes")


class Conversion(NamedTuple):
    """Annotations of another format as COCO json."""

    content: dict[str, Any]
    findings: Findings  # What was left out or repaired.
    format: str
    images: Path  # The folder that ``file_name`` is relative to.


def convert(
    source: Path,
    format_name: str | None = None,
    images: Path | None = None,
    *,
    split: str | None = None,
    attribute: str | None = None,
    categories: Path | None = None,
) -> Conversion:
    """Converts annotations.

    Args:
        source: A folder or a file, as the format has it.
        format_name: A key of `FORMATS`. By default the content decides.
        images: The folder of images. By default where the format has it.
        split: A part of the data set, such as "train", for `WITH_SPLITS`. By default all.
        attribute: The attribute that names the class, for VIA.
        categories: A COCO json whose ids and names to use. By default names are numbered.

    Raises:
        OSError: A file or a folder is missing.
        ValueError: The format is not clear, or nothing can be converted. The message says why.
    """
    if not source.exists():
        raise FileNotFoundError(f"there is no file or folder {source}")
    name = format_name or find(source)
    if split is not None and name not in WITH_SPLITS:
        raise ValueError(f"--split is for {', '.join(WITH_SPLITS)}; this is {name}")
    if attribute is not None and name != "via":
        raise ValueError(f"--attribute is for via; this is {name}")
    folder = FORMATS[name].image_folder(source) if images is None else images
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of images {folder}: --images DIR names it")
    given = None if categories is None else annotation_files.load(categories)["categories"]
    collection = Collection(folder, given)
    choices = {"split": split, "attribute": attribute}
    chosen = {key: value for key, value in choices.items() if value is not None}
    FORMATS[name].read(source, collection, **chosen)
    try:
        return Conversion(collection.content(), collection.findings, name, folder)
    except ValueError as error:
        raise ValueError(f"{source}, read as {name}: {error}") from error


def find(source: Path) -> str:
    """The format of a folder or a file. Raises ValueError if none fits, or several do."""
    *others, last = FORMATS
    found = [name for name in others if FORMATS[name].matches(source)]
    if not found and FORMATS[last].matches(source):
        return last
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{source} may be {' or '.join(found)}: --format says which")
    if any(isinstance(x, dict) and "annotations" in x for x in files.first_json(source)):
        raise ValueError(
            f"{source} seems to be COCO json already, which all commands take as it is"
        )
    raise ValueError(
        f"{source} is in none of the formats {', '.join(FORMATS)}; VIA's is a json file, the "
        "others are folders"
    )
