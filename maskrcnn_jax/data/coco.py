"""Images with instance annotations in COCO's json format."""

import copy
import functools
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from maskrcnn_jax import images
from maskrcnn_jax.data import annotations, rle
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.findings import Findings, named, plain, short
from maskrcnn_jax.data.image_folder import ImageFolder
from maskrcnn_jax.data.rle import Mask

_logger = logging.getLogger(__name__)

_FRACTIONS = "coordinates seem to be fractions of the image, but pixels are meant"


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

    Boxes are clamped to the image. An object is left out if its box is then empty or is not finite,
    or if it has no mask and ``masks`` is True. One warning for each kind of odd entry counts them
    and gives the first ids; see `annotations.read` for the kinds.

    Args:
        image_folder: The folder that the file names in the annotation file are relative to.
        annotation_file: The JSON file.
        keep_empty: Whether to keep images without a learnable object.
        keep_rule: The learnable objects. "torchvision": those with both sides of their box above
            one pixel. "any": all.
        min_side: Images with a smaller side, in pixels, are left out.
        masks: Whether every object needs a mask. Otherwise a box is enough, and the mask of an
            object that has none is None.
        categories: The map from labels to categories. By default the categories of the file are
            numbered by ascending id.
        crowd: "objects" makes objects of crowds; "ignore" leaves them out.
        strict: Whether an odd entry is an error.
        num_channels: The number of channels of all images, as in `images.read_image`.
        image_dtype: The type of their pixels, as in `images.read_image`.

    Raises:
        FileNotFoundError: There is no annotation file or no image folder.
        ValueError: The annotation file cannot be read, or has an odd entry and ``strict`` is True.
            The message names the file and the ids concerned.
    """

    def __init__(
        self,
        image_folder: str | os.PathLike[str],
        annotation_file: str | os.PathLike[str],
        *,
        keep_empty: bool,
        keep_rule: str = "torchvision",
        min_side: int = 0,
        masks: bool = True,
        categories: Categories | None = None,
        crowd: str = "ignore",
        strict: bool = False,
        num_channels: int | None = 3,
        image_dtype: str | None = "uint8",
    ):
        self.image_folder, self.annotation_file = Path(image_folder), Path(annotation_file)
        self.num_channels, self.image_dtype = num_channels, image_dtype
        self._folder, self._crowd = ImageFolder(self.image_folder), crowd
        content, findings = self._read()
        try:
            self.categories = categories or _categories(content["categories"])
            records = _records(content, self.categories, masks, findings)
        except ValueError as error:
            raise ValueError(f"{self.annotation_file}: {error}") from error
        if not self.image_folder.is_dir():
            raise FileNotFoundError(f"there is no image folder {self.image_folder}")
        self._records = [
            record
            for record in records
            if min(record.size) >= min_side
            and (keep_empty or is_learnable(record.boxes, keep_rule).any())
        ]
        findings.report(self.annotation_file, strict)
        _warn_of_crowds(self.annotation_file, content)
        if not self._records:
            self._why_empty = _why_empty(content, records, findings, min_side)
        elif _are_fractions(records):
            _logger.warning("%s: %s", self.annotation_file, _FRACTIONS)
        self._left_out: frozenset[int] = frozenset()
        self._stamps: dict[int, int] = {}  # Of the files that were looked at, by image id.

    def _read(self) -> annotations.Annotations:
        def size_of(name: str) -> tuple[int, int]:
            return images.check_image(self._folder.path(name))

        return annotations.read(self.annotation_file, size_of=size_of, crowd=self._crowd)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int | np.integer) -> Example:
        """Reads one image.

        Raises:
            OSError: The file is missing or unreadable.
            ValueError: The size of the image, after its EXIF rotation, is not the annotated one.
        """
        record = self._records[index]
        image = self._look(record, images.read_image, self.num_channels, self.image_dtype)
        self._check_size(record, image.shape[:2])
        return Example(image, record.image_id, record.boxes, record.classes, record.masks)

    def check(self, index: int | np.integer) -> None:
        """Looks at the header of an image, without decoding it. Raises the errors of reading it."""
        record = self._records[index]
        wanted = self.num_channels, self.image_dtype
        if self._look(record, images.check_image, *wanted) != record.size:
            self[index]  # A header may lack the rotation.

    def path(self, index: int | np.integer) -> Path:
        """The file of an image."""
        return self._folder.path(self._records[index].file_name)

    def _look(self, record: _Record, read: Any, *wanted: Any) -> Any:
        try:
            path = self._folder.path(record.file_name)
            found = read(path, *wanted)
            self._compare_stamp(record, path)
            return found
        except FileNotFoundError as error:
            meant = self._folder.suggestions(record.file_name)
            advice = f"; there is {', '.join(meant)}" if meant else ""
            missing = short(record.file_name, 200)
            text = f"there is no file {missing} in {self.image_folder}{advice}"
            raise FileNotFoundError(plain(f"image id {record.image_id}: {text}")) from error
        except (OSError, ValueError) as error:  # ValueError: no path can have such characters.
            raise OSError(plain(f"image id {record.image_id}: {error}")) from error

    def _compare_stamp(self, record: _Record, path: Path) -> None:
        """Warns if a file is not the one that was looked at before."""
        status = path.stat()
        stamp = hash((status.st_size, status.st_mtime_ns))
        before = self._stamps.setdefault(record.image_id, stamp)
        if stamp != before:
            self._stamps[record.image_id] = stamp
            _logger.warning("image id %d: %s has changed since the start", record.image_id, path)

    def _check_size(self, record: _Record, size: tuple[int, int]) -> None:
        """Raises ValueError if an image is not of its annotated size."""
        if tuple(size) == record.size:
            return
        (height, width), (true_height, true_width) = record.size, size
        cause = "the size is that of the image turned by a quarter: either the file says width for "
        cause += "height, or the tool ignores the rotation in EXIF data"
        raise ValueError(
            f"{plain(str(self._folder.path(record.file_name)))} (image id {record.image_id}) is "
            f"{true_height}x{true_width} pixels, but {self.annotation_file} says {height}x{width} "
            f"(height x width){f'; {cause}' if tuple(size) == record.size[::-1] else ''}"
        )

    def without(self, image_ids: Iterable[int]) -> "CocoDataset":
        """The data set without some images, in `annotations` too."""
        rest = copy.copy(self)
        rest.__dict__.pop("labels", None)
        rest._left_out = self._left_out | frozenset(image_ids)
        rest._records = [r for r in self._records if r.image_id not in rest._left_out]
        return rest

    @property
    def why_empty(self) -> str:
        """Why the data set has no images: what its file holds, and what was left out."""
        return f"{self.annotation_file} {self._why_empty}"

    @property
    def sizes(self) -> Int64[np.ndarray, "n 2"]:
        """The annotated height and width of every image, in pixels."""
        return np.array([record.size for record in self._records], np.int64).reshape(-1, 2)

    @property
    def image_ids(self) -> Int64[np.ndarray, " n"]:
        """The COCO id of every image."""
        return np.array([record.image_id for record in self._records], np.int64)

    @property
    def file_names(self) -> list[str]:
        """The name of every image in the annotation file."""
        return [record.file_name for record in self._records]

    @functools.cached_property
    def labels(self) -> list[Int32[np.ndarray, " _"]]:
        """The labels of the objects of every image, from 1."""
        return [record.classes for record in self._records]

    def annotations(self) -> dict[str, Any]:
        """Returns the content of the annotation file as `annotations.read` gives it, with crowds.

        Images without objects are in it, those of `without` are not.
        """
        return annotations.without_images(self._read().content, self._left_out)


def _categories(entries: list[dict[str, Any]]) -> Categories:
    return Categories.from_json(sorted(entries, key=lambda entry: entry["id"]))


def _records(
    content: dict[str, Any], categories: Categories, masks: bool, findings: Findings
) -> list[_Record]:
    """Groups the objects by image, in the order of the file."""
    entries = {entry["id"]: entry for entry in content["images"]}
    objects: dict[int, list[tuple]] = {image_id: [] for image_id in entries}
    labels = {category_id: label for label, category_id in enumerate(categories.ids, start=1)}
    for annotation in content["annotations"]:
        if annotation.get("iscrowd"):
            continue
        if annotation["category_id"] not in labels:
            raise ValueError(
                f"annotation id {annotation['id']} (image id {annotation['image_id']}) has the "
                f"unknown category id {annotation['category_id']}"
            )
        image, mask = entries[annotation["image_id"]], annotation.get("segmentation")
        box = _box(annotation, image)
        if box is None:
            kind = "annotations left out, whose box is empty or not finite"
            findings.add(kind, annotation["id"])
        elif masks and not mask:
            findings.add("annotations left out, which have no mask", annotation["id"])
        else:
            label = labels[annotation["category_id"]]
            if isinstance(mask, dict):  # Run lengths are compressed, which saves memory.
                mask = rle.encode(mask, image["height"], image["width"])
            objects[image["id"]].append((box, label, mask or None))
    return [_record(entry, objects[image_id]) for image_id, entry in entries.items()]


def _record(entry: dict[str, Any], objects: list[tuple]) -> _Record:
    boxes = np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4)
    classes = np.array([label for _, label, _ in objects], np.int32)
    size = (entry["height"], entry["width"])
    return _Record(
        entry["file_name"], entry["id"], size, boxes, classes, [mask for _, _, mask in objects]
    )


def _box(annotation: dict[str, Any], image: dict[str, Any]) -> list[float] | None:
    """Returns the corners x0 y0 x1 y1 clamped to the image, or None if no area is left."""
    x, y, w, h = annotation["bbox"]
    if not all(map(math.isfinite, (x, y, w, h))):
        return None
    x0, x1 = (min(max(value, 0), image["width"]) for value in (x, x + w))
    y0, y1 = (min(max(value, 0), image["height"]) for value in (y, y + h))
    # Compare in float32, as stored: rounding may make a thin box empty.
    corners = np.array([x0, y0, x1, y1], np.float32)
    return corners.tolist() if (corners[2:] > corners[:2]).all() else None


def is_learnable(
    boxes: Float32[np.ndarray, "n 4"], rule: str = "torchvision"
) -> Bool[np.ndarray, " n"]:
    """Tells which boxes, x0 y0 x1 y1 in pixels, are a reason to train on their image.

    torchvision's reference training code drops images without a box of which both sides are above
    one pixel. With the rule "any", every box counts.
    """
    return (boxes[:, 2:] - boxes[:, :2] > (0 if rule == "any" else 1)).all(axis=1)


def _why_empty(
    content: dict[str, Any], records: list[_Record], findings: Findings, min_side: int
) -> str:
    counts = f"{len(content['images'])} usable images and {len(content['annotations'])} usable"
    told = f"has {counts} annotations"
    reasons = findings.lines()[:5]
    num_crowds = sum(bool(x.get("iscrowd")) for x in content["annotations"])
    if num_crowds:
        reasons.append(f"{num_crowds} are crowds (data.crowd=objects makes objects of them)")
    if num_small := sum(min(record.size) < min_side for record in records):
        reasons.append(f"{num_small} images have a side below {min_side} pixels (data.min_side)")
    if num_tiny := sum(len(record.boxes) for record in records):
        reasons.append(f"{num_tiny} objects have a side of at most one pixel")
    if _are_fractions(records):
        reasons.append(_FRACTIONS)
    told += ", but no object to learn from" if records else ""
    return f"{told}: {'; '.join(reasons)}" if reasons else told


def _are_fractions(records: list[_Record]) -> bool:
    """Whether there are boxes, and all lie in the first pixel of their image."""
    ends = [float(record.boxes.max()) for record in records if len(record.boxes)]
    return bool(ends) and max(ends) <= 1.5


def _warn_of_crowds(path: Path, content: dict[str, Any]) -> None:
    crowds = [x["id"] for x in content["annotations"] if x.get("iscrowd")]
    if crowds:
        _logger.warning(
            "%s: %d of %d annotations are crowds (iscrowd 1): no objects to learn from or to find. "
            "If they are objects, data.crowd=objects takes them as such: annotation id %s",
            path,
            len(crowds),
            len(content["annotations"]),
            named(crowds),
        )


def warn_of_dropped(what: str, numbers: dict[int, int]) -> None:
    """Logs one warning that counts the dropped objects and names their images.

    Nothing is logged if nothing was dropped.

    Args:
        what: The kind of object, in the plural.
        numbers: The number of dropped objects by image id.
    """
    image_ids = [image_id for image_id, number in numbers.items() if number]
    if image_ids:
        counted = f"dropped {sum(numbers.values())} {what}, in {len(image_ids)} images"
        _logger.warning("%s: %s", counted, named(image_ids))
