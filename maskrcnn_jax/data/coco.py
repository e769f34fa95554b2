"""Images with instance annotations in COCO's json format.

All input is checked in this file, so that the rest of the package can rely on it.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped

from maskrcnn_jax import images
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.rle import Mask

_NUM_NAMED = 10  # A message about many images names at most this many.

_logger = logging.getLogger(__name__)


class _Record(NamedTuple):
    """An image as the annotation file describes it."""

    file_name: str
    image_id: int
    size: tuple[int, int]
    boxes: Float32[np.ndarray, "n 4"]
    classes: Int32[np.ndarray, " n"]
    masks: list[Mask | None]


class CocoDataset:
    """Random access to the images of a COCO annotation file and their objects, without crowds.

    Boxes are clamped to the image. An object is dropped if its box is then empty or is not finite,
    or if it has no mask and ``masks`` is True. For each of these reasons one warning counts the
    dropped objects and names their images.

    Args:
        image_folder: The folder that the file names in the annotation file are relative to.
        annotation_file: The JSON file.
        keep_empty: Whether to keep images without a learnable object. By torchvision's rule an
            object is learnable if both sides of its box exceed one pixel.
        masks: Whether every object needs a mask. Otherwise a box is enough, and the mask of an
            object that has none is None.
        categories: The map from labels to categories. By default the categories of the file are
            numbered by ascending id.

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
        masks: bool = True,
        categories: Categories | None = None,
    ):
        self.image_folder, self.annotation_file = Path(image_folder), Path(annotation_file)
        content = _load(self.annotation_file)
        try:
            self.categories = categories or _categories(content["categories"])
            records = _records(content, self.categories, masks)
        except ValueError as error:
            raise ValueError(f"{self.annotation_file}: {error}") from error
        self._records = [
            record for record in records if keep_empty or is_learnable(record.boxes).any()
        ]
        self._check_files()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Reads one image.

        Raises:
            OSError: The file is missing or unreadable.
            ValueError: The size of the image, after its EXIF rotation, is not the annotated one.
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
                f"{path} (image id {record.image_id}) is {true_height}x{true_width} pixels after "
                f"the rotation its EXIF data asks for, but {self.annotation_file} says "
                f"{height}x{width} (height x width)"
            )
        return Example(image, record.image_id, record.boxes, record.classes, record.masks)

    @property
    def sizes(self) -> Int64[np.ndarray, "n 2"]:
        """The annotated height and width of every image, in pixels."""
        return np.array([record.size for record in self._records], np.int64).reshape(-1, 2)

    @property
    def image_ids(self) -> Int64[np.ndarray, " n"]:
        """The COCO id of every image."""
        return np.array([record.image_id for record in self._records], np.int64)

    @property
    def labels(self) -> list[Int32[np.ndarray, " _"]]:
        """The labels of the objects of every image, from 1."""
        return [record.classes for record in self._records]

    def annotations(self) -> dict[str, Any]:
        """Returns the content of the annotation file, crowds included."""
        return json.loads(self.annotation_file.read_text(encoding="utf-8"))

    def _check_files(self) -> None:
        missing = [r for r in self._records if not (self.image_folder / r.file_name).is_file()]
        if missing:
            named = ", ".join(
                f"{r.file_name} (image id {r.image_id})" for r in missing[:_NUM_NAMED]
            )
            named += ", ..." if len(missing) > _NUM_NAMED else ""
            if not self.image_folder.is_dir():
                raise FileNotFoundError(f"there is no image folder {self.image_folder}")
            counted = f"{len(missing)} of {len(self)} images of {self.annotation_file}"
            raise FileNotFoundError(f"{counted} are not in {self.image_folder}: {named}")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no annotation file {path}") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
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
        raise ValueError(
            "there are no categories: list what the objects may be, each with its id and name"
        )
    for index, entry in enumerate(entries):
        _check_keys(entry, {"id": int, "name": str}, f"categories[{index}]")
    return Categories.from_json(sorted(entries, key=lambda entry: entry["id"]))


def _records(content: dict[str, Any], categories: Categories, masks: bool) -> list[_Record]:
    """Checks all annotations and groups them by image, in the order of the file."""
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

    objects = _without(
        "objects whose box is empty or not finite", objects, lambda box, mask: box is None
    )
    if masks:
        objects = _without("objects without a mask", objects, lambda box, mask: mask is None)
    return [_record(entry, objects[image_id]) for image_id, entry in entries.items()]


def _without(
    what: str,
    objects: dict[int, list[tuple]],
    is_bad: Callable[[list[float] | None, Mask | None], bool],
) -> dict[int, list[tuple]]:
    """Drops the objects for which ``is_bad(box, mask)``; one warning calls them ``what``."""
    kept, num_dropped = {}, {}
    for image_id, found in objects.items():
        kept[image_id] = [(box, label, mask) for box, label, mask in found if not is_bad(box, mask)]
        num_dropped[image_id] = len(found) - len(kept[image_id])
    warn_of_dropped(what, num_dropped)
    return kept


def _record(entry: dict[str, Any], objects: list[tuple]) -> _Record:
    boxes = np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4)
    classes = np.array([label for _, label, _ in objects], np.int32)
    size = (entry["height"], entry["width"])
    return _Record(
        entry["file_name"], entry["id"], size, boxes, classes, [mask for _, _, mask in objects]
    )


def is_learnable(boxes: Float32[np.ndarray, "n 4"]) -> Bool[np.ndarray, " n"]:
    """Tells which boxes, x0 y0 x1 y1 in pixels, have both sides above one pixel.

    torchvision's reference training code drops images without such a box.
    """
    return (boxes[:, 2:] - boxes[:, :2] > 1).all(axis=1)


def warn_of_dropped(what: str, numbers: dict[int, int]) -> None:
    """Logs one warning that counts the dropped objects and names their images.

    Nothing is logged if nothing was dropped.

    Args:
        what: The kind of object, in the plural.
        numbers: The number of dropped objects by image id.
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
    """Returns the corners x0 y0 x1 y1 clamped to the image, or None if no area is left."""
    bbox = annotation["bbox"]
    if len(bbox) != 4 or not all(isinstance(value, int | float) for value in bbox):
        raise ValueError(
            f"annotation id {annotation['id']}: expected 4 numbers in bbox, got {bbox}"
        )
    if not all(map(math.isfinite, bbox)):
        return None
    x, y, w, h = bbox
    x0, x1 = (min(max(value, 0), image["width"]) for value in (x, x + w))
    y0, y1 = (min(max(value, 0), image["height"]) for value in (y, y + h))
    # Compare in float32, as stored: rounding may make a thin box empty.
    corners = np.array([x0, y0, x1, y1], np.float32)
    return corners.tolist() if (corners[2:] > corners[:2]).all() else None


def _mask(annotation: dict[str, Any], image: dict[str, Any]) -> Mask | None:
    """Checks a segmentation and compresses its run lengths. Returns None without a segmentation."""
    mask, size = annotation.get("segmentation"), [image["height"], image["width"]]
    if not mask:
        return None
    where = f"annotation id {annotation['id']} (image id {image['id']})"
    if isinstance(mask, list):
        if not all(map(_is_polygon, mask)):
            raise ValueError(
                f"{where}: expected polygons of at least 3 points, each a flat list x0 y0 x1 y1 ..."
            )
        return mask
    _check_keys(mask, {"size": list, "counts": str | list}, f"the segmentation of {where}")
    if mask["size"] != size:
        raise ValueError(
            f"{where}: the mask is of size {mask['size']}, its image {size} (height, width)"
        )
    # If run lengths are too short, pycocotools returns uninitialised memory.
    lengths, num_pixels = _lengths(mask["counts"]), size[0] * size[1]
    if not ((lengths >= 0).all() and lengths.sum() == num_pixels):
        raise ValueError(
            f"{where}: the run lengths of the mask are not those of {num_pixels} pixels"
        )
    return rle.encode(mask, *size)


def _lengths(counts: str | list) -> Shaped[np.ndarray, " n"]:
    """Returns the run lengths of ``counts``, compressed or not, or [-1] if they are malformed."""
    if isinstance(counts, str):
        return rle.run_lengths(counts)
    try:
        lengths = np.array(counts)
    except ValueError:  # The list contains lists of different lengths.
        return np.array([-1])
    is_flat = lengths.ndim == 1 and np.issubdtype(lengths.dtype, np.integer)
    return lengths if is_flat else np.array([-1])


def _is_polygon(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    try:
        # One sum is much faster than a check of each of the millions of numbers in COCO.
        return math.isfinite(sum(polygon))
    except TypeError:
        return False


def _check_image(entry: Any, index: int, seen: dict[int, Any]) -> None:
    _check_keys(
        entry, {"id": int, "file_name": str, "height": int, "width": int}, f"images[{index}]"
    )
    if entry["id"] in seen:
        raise ValueError(f"image id {entry['id']} appears twice")
    if not -(2**31) <= entry["id"] < 2**31:
        raise ValueError(
            f"image id {entry['id']} does not fit into 32 bits, which the model's batches have"
        )
    if min(entry["height"], entry["width"]) < 1:
        raise ValueError(f"image id {entry['id']} has the size {entry['height']}x{entry['width']}")


def _check_annotation(
    annotation: Any, index: int, entries: dict[int, Any], labels: dict[int, int], seen: set[int]
) -> None:
    what = f"annotations[{index}]"
    _check_keys(annotation, {"id": int, "image_id": int, "category_id": int}, what)
    optional = {
        "bbox": list,
        "segmentation": list | dict,
        "iscrowd": int | float,
        "area": int | float,
    }
    required = {} if annotation.get("iscrowd") else {"bbox": list}  # Only crowds may lack a box.
    given = {key: kind for key, kind in optional.items() if annotation.get(key) is not None}
    _check_keys(annotation, required | given, what)
    image_id, where = annotation["image_id"], f"annotation id {annotation['id']}"
    if annotation["id"] in seen:
        raise ValueError(f"{where} appears twice")
    if image_id not in entries:
        raise ValueError(f"{where} belongs to an image that is not listed, image id {image_id}")
    if annotation["category_id"] not in labels:
        raise ValueError(
            f"{where} (image id {image_id}) has the unknown category id {annotation['category_id']}"
        )


def _check_crowd(annotation: dict[str, Any], image: dict[str, Any]) -> None:
    """Checks the box and the mask of a crowd: training skips crowds, but evaluation reads them."""
    if annotation.get("bbox"):
        _box(annotation, image)
    _mask(annotation, image)


def _check_keys(entry: Any, types: dict[str, Any], what: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(
            f"{what}: expected an object with the keys {', '.join(types)}, got {entry!r}"
        )
    what = f"{what} (id {entry['id']})" if "id" in entry else what
    for key, kind in types.items():
        if key not in entry:
            raise ValueError(f"{what} has no {key!r}")
        if not isinstance(entry[key], kind):
            raise ValueError(f"{what}: {key!r} cannot be {entry[key]!r}")
