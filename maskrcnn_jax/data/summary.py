"""Statistics of a COCO annotation file: counts, and entries that look wrong."""

import math
from collections import Counter
from typing import Any, NamedTuple

from maskrcnn_jax.data.annotations import fits


class CategoryCount(NamedTuple):
    """The number of annotations of a category, without crowds."""

    category_id: int
    name: str
    num_instances: int
    num_images: int


class Summary(NamedTuple):
    """Statistics of an annotation file. The lists hold ids; only ``num_crowds`` counts crowds."""

    num_images: int
    num_instances: int  # Annotations with a non-empty box and a mask.
    num_crowds: int
    categories: list[CategoryCount]  # By descending frequency.
    empty: list[int]  # Images without an object that is a reason to train on them.
    dropped: list[int]  # Annotations whose box, clamped to the image, is empty or not finite.
    unmasked: list[int]  # Annotations with a box but no mask; no other field counts them.
    apart: list[int]  # Annotations whose box and mask do not agree.
    overfull: list[int]  # Images with more objects than slots.
    num_surplus: int  # Objects of these images that have no slot.


def summarize(
    annotations: dict[str, Any], max_instances: int, keep_rule: str = "torchvision"
) -> Summary:
    """Counts the images and objects that `CocoDataset` makes of a file, for a model with masks.

    Args:
        annotations: The content of a file that `CocoDataset` accepts.
        max_instances: Number of slots for the objects of an image.
        keep_rule: As in `CocoDataset`.
    """
    entries = {entry["id"]: entry for entry in annotations["images"]}
    crowds = [a for a in annotations["annotations"] if a.get("iscrowd", 0)]
    objects = [a for a in annotations["annotations"] if not a.get("iscrowd", 0)]
    sides = {a["id"]: _sides(a["bbox"], entries[a["image_id"]]) for a in objects}
    with_extent = [a for a in objects if min(sides[a["id"]]) > 0]
    kept = [a for a in with_extent if a.get("segmentation")]
    per_image = Counter(a["image_id"] for a in kept)
    shortest = 0 if keep_rule == "any" else 1
    with_objects = {a["image_id"] for a in kept if min(sides[a["id"]]) > shortest}
    return Summary(
        num_images=len(entries),
        num_instances=len(kept),
        num_crowds=len(crowds),
        categories=_categories(annotations["categories"], kept),
        empty=[image_id for image_id in entries if image_id not in with_objects],
        dropped=[a["id"] for a in objects if min(sides[a["id"]]) <= 0],
        unmasked=[a["id"] for a in with_extent if not a.get("segmentation")],
        apart=[a["id"] for a in kept if not fits(a["bbox"], a["segmentation"])],
        overfull=[image_id for image_id, count in per_image.items() if count > max_instances],
        num_surplus=sum(max(count - max_instances, 0) for count in per_image.values()),
    )


def _categories(
    entries: list[dict[str, Any]], objects: list[dict[str, Any]]
) -> list[CategoryCount]:
    instances = Counter(a["category_id"] for a in objects)
    category_image_pairs = {(a["category_id"], a["image_id"]) for a in objects}
    images = Counter(category_id for category_id, _ in category_image_pairs)
    counts = [
        CategoryCount(e["id"], e["name"], instances[e["id"]], images[e["id"]]) for e in entries
    ]
    return sorted(counts, key=lambda count: (-count.num_instances, count.category_id))


def _sides(bbox: list[float | int], entry: dict[str, Any]) -> tuple[float | int, float | int]:
    """Returns width and height of a box clamped to its image, in pixels; 0, 0 if not finite."""
    if not all(map(math.isfinite, bbox)):
        return 0, 0
    x, y, width, height = bbox
    return (
        min(max(x + width, 0), entry["width"]) - min(max(x, 0), entry["width"]),
        min(max(y + height, 0), entry["height"]) - min(max(y, 0), entry["height"]),
    )
