"""Reads annotation files in COCO's format as labelling tools write them.

Everything with a single meaning is read: numbers as text, ids of any kind, outlines in any nesting,
boxes and sizes that masks and files give. An entry with no clear meaning costs itself, and is
counted. What comes out has the types of COCO's own files, so that no other code has to check it.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from maskrcnn_jax.data import annotation_files, outlines
from maskrcnn_jax.data.findings import Findings, short
from maskrcnn_jax.data.image_entries import ImageIds, read_images
from maskrcnn_jax.data.outlines import Mask
from maskrcnn_jax.data.values import number, whole, yes_or_no

CROWDS = ("ignore", "objects")  # The values of `DataConfig.crowd`.

# Smallest plausible intersection over union of a box and the bounding box of its mask.
_MIN_AGREEMENT = 0.5
_NO_BOX = "annotations left out, with neither a box nor a mask that can be read"
_APART = "annotations whose box does not fit their mask"
_CORNERS = (
    "annotations whose box does not fit their mask; bbox has to be x, y, width and height, "
    "and here seems to be x0, y0, x1, y1"
)
_AREA = "annotations with an area that their objects cannot have; the area of the mask counts"


class Annotations(NamedTuple):
    """The content of an annotation file, and what was wrong with it.

    In ``content`` images have int32 ids, names and sizes; the id in the file is ``original_id`` if
    it is another one. Annotations have distinct ids, and ids of images and categories that exist;
    ``iscrowd``, ``bbox`` and ``segmentation`` are well-formed where present. All but crowds have a
    ``bbox``.
    """

    content: dict[str, Any]
    findings: Findings


def read(
    path: Path,
    *,
    size_of: Callable[[str], tuple[int, int]] | None = None,
    crowd: str = "ignore",
) -> Annotations:
    """Reads an annotation file.

    Args:
        path: The file.
        size_of: Gives height and width of an image file by its name, for entries without a size.
        crowd: "objects" makes objects of crowds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not in COCO's format, or a category is broken.
    """
    content = annotation_files.load(path)
    findings = Findings()
    try:
        categories = _categories(content["categories"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    images, ids = read_images(content["images"], size_of, findings)
    reader = _Reader(images, ids, categories, findings, crowd)
    objects = reader.read_all(content["annotations"])
    content = content | {"images": images, "annotations": objects, "categories": categories}
    return Annotations(content, findings)


def _categories(entries: list[Any]) -> list[dict[str, Any]]:
    if not entries:
        raise ValueError(
            "there are no categories: list what the objects may be, each with its id and name"
        )
    found: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(entries):
        what = f"categories[{index}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{what}: expected an object with id and name, got {short(entry)}")
        category_id, name = whole(entry.get("id")), entry.get("name")
        if category_id is None:
            raise ValueError(f"{what} needs a whole number as its id, got {short(entry.get('id'))}")
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            raise ValueError(f"{what} (id {category_id}) needs a name, got {short(name)}")
        if category_id in found and found[category_id]["name"] != str(name):
            raise ValueError(f"category ids have to differ, got [{category_id}] more than once")
        is_same = entry["id"] is category_id and entry["name"] is name and isinstance(name, str)
        found[category_id] = entry if is_same else entry | {"id": category_id, "name": str(name)}
    return list(found.values())


class _Reader:
    """Reads the annotations of a file one by one."""

    def __init__(
        self,
        images: list[dict[str, Any]],
        ids: ImageIds,
        categories: list[dict[str, Any]],
        findings: Findings,
        crowd: str,
    ) -> None:
        self._images = {entry["id"]: entry for entry in images}
        self._ids, self._findings, self._crowd = ids, findings, crowd
        self._category_ids = {entry["id"] for entry in categories}
        # Some tools name images and categories instead of giving their ids.
        self._by_file = _unique((entry["file_name"], entry["id"]) for entry in images)
        self._by_name = _unique((entry["name"], entry["id"]) for entry in categories)
        self._apart: list[tuple[Any, bool]] = []  # Id, and whether the box fits as two corners.
        self._num_compared = 0
        self._odd_areas: list[Any] = []  # Ids.

    def read_all(self, entries: list[Any]) -> list[dict[str, Any]]:
        """Returns the annotations that can be used."""
        found, taken = [], set()
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                kind = "annotations left out, which are no objects with fields"
                self._findings.add(kind, f"of number {index + 1}")
                continue
            name = entry.get("id", f"of number {index + 1}")
            read = self._read(entry, name if isinstance(name, str | int | float) else short(name))
            if read is not None:
                own = whole(entry.get("id"))
                own = None if own in taken else own
                taken.add(own)
                found.append(_changed(read, {"id": own}))
        self._report_contradictions()
        return _number(found)

    def _read(self, entry: dict[str, Any], name: Any) -> dict[str, Any] | None:
        image_id = self._ids.find(entry.get("image_id"))
        if image_id is None:
            image_id = _named(entry.get("image_id"), self._by_file)
        if image_id is None:
            kind = "annotations left out, whose image is not listed or was left out"
            return self._findings.add(kind, name)
        category_id = whole(entry.get("category_id"))
        if category_id is None:
            category_id = _named(entry.get("category_id"), self._by_name)
        if category_id not in self._category_ids:
            known = short(sorted(self._category_ids), 60)
            kind = f"annotations left out, whose category id is none of {known}"
            return self._findings.add(kind, name)
        is_crowd = yes_or_no(entry.get("iscrowd"))
        if is_crowd is None:
            return self._findings.add(
                "annotations left out, whose iscrowd is neither 0 nor 1", name
            )
        changes = {"image_id": image_id, "category_id": category_id}
        if entry.get("iscrowd") is not None or self._crowd == "objects":
            changes["iscrowd"] = int(is_crowd and self._crowd == "ignore")
        shape = self._shape(entry, name, self._images[image_id], is_crowd=changes.get("iscrowd"))
        return None if shape is None else _changed(entry, changes | shape)

    def _shape(
        self, entry: dict[str, Any], name: Any, image: dict[str, Any], is_crowd: int | None
    ) -> dict[str, Any] | None:
        """The mask, box and area of an annotation, or None if there is neither box nor mask."""
        shape: dict[str, Any] = {}
        mask = self._mask(entry, name, image)
        if "segmentation" in entry:
            shape["segmentation"] = mask if mask is not None else []
        box = self._box(entry, name)
        if box is None and mask is not None:
            box = outlines.bounds(mask)
        if box is not None:
            shape["bbox"] = box if isinstance(box, list) else list(box)
        elif not is_crowd:
            return self._findings.add(_NO_BOX, name)
        elif "bbox" in entry:
            shape["bbox"] = []
        if entry.get("area") is not None:
            shape["area"] = number(entry["area"])
        if is_crowd:
            self._check_area(shape, image, name)
        elif _has_area(shape["bbox"], image):  # `CocoDataset` leaves the others out, and says so.
            self._check_area(shape, image, name)
            if mask is not None:
                self._compare(shape["bbox"], mask, name)
        return shape

    def _mask(self, entry: dict[str, Any], name: Any, image: dict[str, Any]) -> Mask | None:
        try:
            mask, repairs = outlines.read(
                entry.get("segmentation"), image["height"], image["width"]
            )
        except outlines.Unusable as problem:
            self._findings.add(f"annotations without a usable mask, {problem}", name)
            return None
        for repair in repairs:
            self._findings.add(f"annotations {repair}", name)
        return mask

    def _box(self, entry: dict[str, Any], name: Any) -> list[float | int] | None:
        given = entry.get("bbox")
        if not given:
            return None
        given = _as_list(given)
        values = [number(value) for value in given] if isinstance(given, list) else []
        if len(values) != 4 or None in values:
            kind = "annotations whose bbox is not 4 numbers; taken from their masks, if they have"
            return self._findings.add(kind, name)
        return given if all(a is b for a, b in zip(values, given, strict=True)) else values

    def _check_area(self, shape: dict[str, Any], image: dict[str, Any], name: Any) -> None:
        if not may_have_area(shape, image["height"], image["width"]):
            self._odd_areas.append(name)

    def _compare(self, box: list[float | int], mask: Mask, name: Any) -> None:
        self._num_compared += 1
        if not fits(box, mask):
            x0, y0, x1, y1 = box
            self._apart.append((name, fits([x0, y0, x1 - x0, y1 - y0], mask)))

    def _report_contradictions(self) -> None:
        are_corners = sum(as_corners for _, as_corners in self._apart)
        are_most = 2 * are_corners > self._num_compared
        for name, _ in self._apart:
            self._findings.add(_CORNERS if are_most else _APART, name)
        for name in self._odd_areas:
            self._findings.add(_AREA, name)


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The ids by name, without the names that several have."""
    found: dict[str, list[int]] = {}
    for name, own in pairs:
        found.setdefault(name, []).append(own)
    return {name: ids[0] for name, ids in found.items() if len(ids) == 1}


def _named(value: Any, ids: dict[str, int]) -> int | None:
    return ids.get(value) if isinstance(value, str) else None


def _as_list(box: Any) -> Any:
    """A box that is text, nested once, or has named sides, as a list of its four values."""
    if isinstance(box, str):
        return box.strip("[]() ").replace(",", " ").split()
    if isinstance(box, list) and len(box) == 1:
        return box[0]
    if isinstance(box, dict):
        return [box.get(side) for side in ("x", "y", "width", "height")]
    return box


def _has_area(box: list[float | int], image: dict[str, Any]) -> bool:
    """Whether a box x, y, width, height shares an area with its image."""
    x, y, width, height = box
    is_wide = min(x + width, image["width"]) > max(x, 0)
    is_high = min(y + height, image["height"]) > max(y, 0)
    return is_wide and is_high and all(map(math.isfinite, box))


def may_have_area(annotation: dict[str, Any], height: int, width: int) -> bool:
    """Whether an area is missing, or positive and not larger than the box or the image."""
    area, bbox = annotation.get("area"), annotation.get("bbox")
    if area is None:
        return True
    around = height * width
    if bbox and all(map(math.isfinite, bbox)):
        # Masks may reach one pixel beyond their boxes on each side.
        around = min(around, (bbox[2] + 2) * (bbox[3] + 2))
    return 0 < area <= around


def fits(box: list[float | int], mask: Mask) -> bool:
    """Whether a box x, y, width, height overlaps enough with the bounding box of a mask."""
    found = outlines.bounds(mask)
    if found is None:
        return False
    x, y, width, height = found
    shared_width = min(x + width, box[0] + box[2]) - max(x, box[0])
    shared_height = min(y + height, box[1] + box[3]) - max(y, box[1])
    shared = max(shared_width, 0) * max(shared_height, 0)
    union = width * height + box[2] * box[3] - shared
    return shared >= _MIN_AGREEMENT * union


def _changed(entry: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The entry itself if it has these values already, else a copy with them."""
    is_same = all(name in entry and entry[name] is value for name, value in changes.items())
    return entry if is_same else entry | changes


def _number(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives ids to annotations whose own is missing, is no number, or is used twice."""
    following = max((entry["id"] for entry in annotations if entry["id"] is not None), default=0)
    numbered = []
    for entry in annotations:
        if entry["id"] is None:
            following += 1
            entry = entry | {"id": following}
        numbered.append(entry)
    return numbered


def without_images(annotations: dict, image_ids: Iterable[int]) -> dict:
    """Annotations in COCO's format without some images and their objects."""
    dropped = set(image_ids)
    if not dropped:
        return annotations
    images = [entry for entry in annotations["images"] if entry["id"] not in dropped]
    objects = [entry for entry in annotations["annotations"] if entry["image_id"] not in dropped]
    return annotations | {"images": images, "annotations": objects}
