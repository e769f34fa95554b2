"""Images with instance annotations in COCO's json format.

Everything is checked here, at the edge: what this file hands on, the rest of the package relies on.
"""

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, Shaped, UInt8
from pycocotools import mask as rle_masks

from maskrcnn_jax import images
from maskrcnn_jax.data.categories import Categories

Mask = list | dict  # Polygons as flat lists x0 y0 x1 y1 ..., or a run-length encoding with "size" and "counts".

_NUM_NAMED = 10  # Messages about many images name this many of them.

_logger = logging.getLogger(__name__)


class Example(NamedTuple):
    """One image with everything known of it, before augmentation. Not to be written to: the data set keeps it."""

    image: UInt8[np.ndarray, "h w 3"]
    image_id: int
    boxes: Float32[np.ndarray, "n 4"]  # x0 y0 x1 y1 in pixels of this image.
    classes: Int32[np.ndarray, " n"]  # Contiguous labels, from 1.
    masks: list[Mask]  # One for each box: polygons, or a compressed run-length encoding.


class _Record(NamedTuple):
    """An image as the annotation file describes it."""

    file_name: str
    image_id: int
    size: tuple[int, int]
    boxes: Float32[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    masks: list[Mask]


class CocoDataset:
    """Random access to the images of a COCO annotation file and their objects, crowds left out.

    Boxes are clamped to the image. Objects whose box is then empty, or not finite, are dropped, and one warning counts
    them and names their images.

    Args:
        image_folder: Where the file names of the annotation file start.
        annotation_file: The json.
        keep_empty: Whether images stay in the set that have nothing to learn from, which is torchvision's rule: no
            object with both sides of its box above one pixel.
        categories: Labels follow this map. By default they number the categories of the file by ascending id.

    Raises:
        FileNotFoundError: The annotation file or images are missing.
        ValueError: The annotation file is broken; the message names the file and the ids concerned.
    """

    def __init__(
        self,
        image_folder: str | os.PathLike[str],
        annotation_file: str | os.PathLike[str],
        *,
        keep_empty: bool,
        categories: Categories | None = None,
    ):
        self.image_folder, self.annotation_file = Path(image_folder), Path(annotation_file)
        content = _load(self.annotation_file)
        try:
            self.categories = categories or _categories(content["categories"])
            records = _records(content, self.categories)
        except ValueError as error:
            raise ValueError(f"{self.annotation_file}: {error}") from error
        self._records = [record for record in records if keep_empty or has_objects(record.boxes)]
        self._check_files()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Reads one image.

        Raises:
            OSError: The file is missing or unreadable.
            ValueError: Its size, after the EXIF rotation, is not the annotated one.
        """
        record = self._records[index]
        path = self.image_folder / record.file_name
        try:
            image = images.read_image(path)
        except OSError as error:
            raise OSError(f"image id {record.image_id}: {error}") from error
        if image.shape[:2] != record.size:
            (height, width), (true_height, true_width) = record.size, image.shape[:2]
            raise ValueError(
                f"{path} (image id {record.image_id}) is {true_height}x{true_width} pixels after the rotation its EXIF "
                f"data asks for, but {self.annotation_file} says {height}x{width} (height x width)"
            )
        return Example(image, record.image_id, record.boxes, record.classes, record.masks)

    @property
    def sizes(self) -> np.ndarray:
        """Height and width of every image, as annotated: int64 of shape (n, 2)."""
        return np.array([record.size for record in self._records], np.int64).reshape(-1, 2)

    @property
    def image_ids(self) -> np.ndarray:
        """COCO's id of every image: int64 of shape (n,)."""
        return np.array([record.image_id for record in self._records], np.int64)

    def _check_files(self) -> None:
        missing = [r for r in self._records if not (self.image_folder / r.file_name).is_file()]
        if missing:
            named = ", ".join(f"{r.file_name} (image id {r.image_id})" for r in missing[:_NUM_NAMED])
            named += ", ..." if len(missing) > _NUM_NAMED else ""
            if not self.image_folder.is_dir():
                raise FileNotFoundError(f"there is no image folder {self.image_folder}")
            counted = f"{len(missing)} of {len(self)} images of {self.annotation_file}"
            raise FileNotFoundError(f"{counted} are not in {self.image_folder}: {named}")


def rle(mask: Mask, height: int, width: int) -> dict[str, Any]:
    """Any of COCO's three kinds of masks as a compressed run-length encoding, ``counts`` a string.

    Polygons are rasterised in an image of ``height`` times ``width`` pixels and united.
    """
    if isinstance(mask, list):
        encoded = rle_masks.merge(rle_masks.frPyObjects(mask, height, width))
    elif isinstance(mask["counts"], list):
        encoded = rle_masks.frPyObjects(mask, height, width)
    else:
        encoded = mask
    counts = encoded["counts"]
    counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": counts}


def decode_mask(mask: Mask, height: int, width: int) -> UInt8[np.ndarray, "{height} {width}"]:
    """Any of COCO's three kinds of masks as pixels: 1 inside, 0 outside."""
    lengths = run_lengths(rle(mask, height, width)["counts"])
    inside = (np.arange(lengths.size) % 2).astype(np.uint8)  # Runs alternate, and the first one is outside.
    return np.repeat(inside, lengths).reshape(width, height).T  # Runs go down the columns.


def run_lengths(counts: str) -> Int64[np.ndarray, " n"]:
    """The lengths that COCO's ``counts`` string stands for, runs outside and inside the mask in turn.

    Lengths that do not add up to the pixels of the image are for the caller to refuse; a string that is none gives -1.

    A number is a sequence of characters from "0", five bits each, the lowest first; a sixth bit says that more follow,
    and the highest bit of the last one is the sign. From the fourth number on, each is the difference to the last but
    one before it.
    """
    digits = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero((digits & 32) == 0)
    if digits.size == 0 or digits.min() < 0 or digits.max() > 63 or last.size == 0 or last[-1] != digits.size - 1:
        return np.array([-1])
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(digits.size) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((digits & 31) << (5 * place), first)
    numbers -= np.where(digits[last] & 16, 1 << (5 * (place[last] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no annotation file {path}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to hold annotations") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{path} is a folder: give the json file in it") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{path}: expected a list under the key {key!r}")
    return content


def _categories(entries: Sequence[Any]) -> Categories:
    if not entries:
        raise ValueError("there are no categories: list what the objects may be, each with its id and name")
    for index, entry in enumerate(entries):
        _check_keys(entry, {"id": int, "name": str}, f"categories[{index}]")
    return Categories.from_json(sorted(entries, key=lambda entry: entry["id"]))


def _records(content: dict[str, Any], categories: Categories) -> list[_Record]:
    """Groups the annotations by image, in the order of the file."""
    objects: dict[int, list[tuple]] = {}
    entries = {}
    for index, entry in enumerate(content["images"]):
        _check_image(entry, index, seen=entries)
        entries[entry["id"]] = entry
        objects[entry["id"]] = []

    labels = {category_id: label for label, category_id in enumerate(categories.ids, start=1)}
    annotation_ids: set[int] = set()
    for index, annotation in enumerate(content["annotations"]):
        _check_annotation(annotation, index, entries, labels, seen=annotation_ids)
        annotation_ids.add(annotation["id"])
        image = entries[annotation["image_id"]]
        if annotation.get("iscrowd"):
            _check_crowd(annotation, image)
        else:
            label = labels[annotation["category_id"]]
            objects[image["id"]].append((_box(annotation, image), label, _mask(annotation, image)))

    dropped = {image_id: sum(box is None for box, _, _ in found) for image_id, found in objects.items()}
    warn_of_dropped("objects whose box is empty or not finite", dropped)
    return [_record(entry, objects[image_id]) for image_id, entry in entries.items()]


def _record(entry: dict[str, Any], objects: list[tuple]) -> _Record:
    kept = [(box, label, mask) for box, label, mask in objects if box is not None]
    boxes = np.array([box for box, _, _ in kept], np.float32).reshape(-1, 4)
    classes = np.array([label for _, label, _ in kept], np.int32)
    size = (entry["height"], entry["width"])
    return _Record(entry["file_name"], entry["id"], size, boxes, classes, [mask for _, _, mask in kept])


def has_objects(boxes: Float32[np.ndarray, "n 4"]) -> bool:
    """Whether there is something to learn from: an object with both sides of its box above one pixel."""
    return bool((boxes[:, 2:] - boxes[:, :2] > 1).all(axis=1).any())


def warn_of_dropped(what: str, numbers: dict[int, int]) -> None:
    """Counts what was dropped in one warning, and names its images; none if there is nothing.

    Args:
        what: Was dropped, in the plural.
        numbers: How many, by the id of their image.
    """
    image_ids = [image_id for image_id, number in numbers.items() if number]
    if image_ids:
        _logger.warning(
            "dropped %d %s, in %d images: %s%s",
            sum(numbers.values()),
            what,
            len(image_ids),
            ", ".join(map(str, image_ids[:_NUM_NAMED])),
            ", ..." if len(image_ids) > _NUM_NAMED else "",
        )


def _box(annotation: dict[str, Any], image: dict[str, Any]) -> list[float] | None:
    """Corners clamped to the image, or None where nothing of the box is left."""
    bbox = annotation["bbox"]
    if len(bbox) != 4 or not all(isinstance(value, int | float) for value in bbox):
        raise ValueError(f"annotation id {annotation['id']}: expected 4 numbers in bbox, got {bbox}")
    if not all(map(math.isfinite, bbox)):
        return None
    x, y, w, h = bbox
    x0, x1 = (min(max(value, 0), image["width"]) for value in (x, x + w))
    y0, y1 = (min(max(value, 0), image["height"]) for value in (y, y + h))
    corners = np.array([x0, y0, x1, y1], np.float32)  # Compared as stored: float32 may close a gap.
    return corners.tolist() if (corners[2:] > corners[:2]).all() else None


def _mask(annotation: dict[str, Any], image: dict[str, Any]) -> Mask:
    """The checked segmentation, with uncompressed run lengths compressed."""
    mask, size = annotation["segmentation"], [image["height"], image["width"]]
    where = f"annotation id {annotation['id']} (image id {image['id']})"
    if isinstance(mask, list):
        if not mask or not all(map(_is_polygon, mask)):
            raise ValueError(f"{where}: expected polygons of at least 3 points, each a flat list x0 y0 x1 y1 ...")
        return mask
    _check_keys(mask, {"size": list, "counts": str | list}, f"the segmentation of {where}")
    if mask["size"] != size:
        raise ValueError(f"{where}: the mask is of size {mask['size']}, its image {size} (height, width)")
    lengths = _lengths(mask["counts"])  # Checked, because pycocotools decodes short ones to uninitialised memory.
    if not ((lengths >= 0).all() and lengths.sum() == size[0] * size[1]):
        raise ValueError(f"{where}: the run lengths of the mask are not those of {size[0] * size[1]} pixels")
    return rle(mask, *size)


def _lengths(counts: str | list) -> Shaped[np.ndarray, " n"]:
    """Run lengths of either kind; -1 if they are none."""
    if isinstance(counts, str):
        return run_lengths(counts)
    try:
        lengths = np.array(counts)
    except ValueError:  # Lists in the list, of different lengths.
        return np.array([-1])
    return lengths if lengths.ndim == 1 and np.issubdtype(lengths.dtype, np.integer) else np.array([-1])


def _is_polygon(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    try:
        return math.isfinite(sum(polygon))  # Far quicker than looking at each of the millions of numbers in COCO.
    except TypeError:
        return False


def _check_image(entry: Any, index: int, seen: dict[int, Any]) -> None:
    _check_keys(entry, {"id": int, "file_name": str, "height": int, "width": int}, f"images[{index}]")
    if entry["id"] in seen:
        raise ValueError(f"image id {entry['id']} appears twice")
    if not -(2**31) <= entry["id"] < 2**31:
        raise ValueError(f"image id {entry['id']} does not fit into 32 bits, which the model's batches have")
    if min(entry["height"], entry["width"]) < 1:
        raise ValueError(f"image id {entry['id']} has the size {entry['height']}x{entry['width']}")


def _check_annotation(
    annotation: Any, index: int, entries: dict[int, Any], labels: dict[int, int], seen: set[int]
) -> None:
    what = f"annotations[{index}]"
    _check_keys(annotation, {"id": int, "image_id": int, "category_id": int}, what)
    regions, numbers = {"bbox": list, "segmentation": list | dict}, {"iscrowd": int | float, "area": int | float}
    required, optional = ({}, regions | numbers) if annotation.get("iscrowd") else (regions, numbers)
    given = {key: kind for key, kind in optional.items() if annotation.get(key) is not None}
    _check_keys(annotation, required | given, what)
    image_id, where = annotation["image_id"], f"annotation id {annotation['id']}"
    if annotation["id"] in seen:
        raise ValueError(f"{where} appears twice")
    if image_id not in entries:
        raise ValueError(f"{where} belongs to an image that is not listed, image id {image_id}")
    if annotation["category_id"] not in labels:
        raise ValueError(f"{where} (image id {image_id}) has the unknown category id {annotation['category_id']}")


def _check_crowd(annotation: dict[str, Any], image: dict[str, Any]) -> None:
    """Checks what there is of a box and a mask: nobody learns from them, but evaluation reads them."""
    if annotation.get("bbox"):
        _box(annotation, image)
    if annotation.get("segmentation"):
        _mask(annotation, image)


def _check_keys(entry: Any, types: dict[str, Any], what: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{what}: expected an object with the keys {', '.join(types)}, got {entry!r}")
    what = f"{what} (id {entry['id']})" if "id" in entry else what
    for key, kind in types.items():
        if key not in entry:
            raise ValueError(f"{what} has no {key!r}")
        if not isinstance(entry[key], kind):
            raise ValueError(f"{what}: {key!r} cannot be {entry[key]!r}")
