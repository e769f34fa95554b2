"""What a COCO annotation file holds, in numbers: how much of everything, and what looks wrong."""

import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle_masks

from maskrcnn_jax.data import coco

_MIN_AGREEMENT = 0.5  # Intersection over union of a box and the box round its mask; less is hardly meant.


class CategoryCount(NamedTuple):
    """How often a category is annotated, crowds left out."""

    category_id: int
    name: str
    num_instances: int
    num_images: int


class Summary(NamedTuple):
    """An annotation file in numbers. Lists are of ids; crowds count nowhere but in ``num_crowds``."""

    num_images: int
    num_instances: int  # Those with an extent.
    num_crowds: int
    categories: list[CategoryCount]  # The most frequent first.
    empty: list[int]  # Images with nothing to learn from: no object with both sides of its box above one pixel.
    dropped: list[int]  # Annotations whose box is empty within the image, or not finite.
    apart: list[int]  # Annotations whose box and mask do not fit together.
    overfull: list[int]  # Images with more objects than there are slots.
    num_surplus: int  # Objects of those images that find no slot.


def summarize(annotations: dict[str, Any], max_instances: int) -> Summary:
    """Counts what `CocoDataset` makes of an annotation file that it has read without complaint.

    Args:
      annotations: content of the file.
      max_instances: slots for the objects of an image.
    """
    entries = {entry["id"]: entry for entry in annotations["images"]}
    crowds = [a for a in annotations["annotations"] if a.get("iscrowd", 0)]
    objects = [a for a in annotations["annotations"] if not a.get("iscrowd", 0)]
    sides = {a["id"]: _sides(a["bbox"], entries[a["image_id"]]) for a in objects}
    kept = [a for a in objects if min(sides[a["id"]]) > 0]
    per_image = Counter(a["image_id"] for a in kept)
    with_objects = {a["image_id"] for a in kept if min(sides[a["id"]]) > 1}
    return Summary(
        num_images=len(entries),
        num_instances=len(kept),
        num_crowds=len(crowds),
        categories=_categories(annotations["categories"], kept),
        empty=[image_id for image_id in entries if image_id not in with_objects],
        dropped=[a["id"] for a in objects if min(sides[a["id"]]) <= 0],
        apart=[a["id"] for a in kept if _agreement(a, entries[a["image_id"]]) < _MIN_AGREEMENT],
        overfull=[image_id for image_id, count in per_image.items() if count > max_instances],
        num_surplus=sum(max(count - max_instances, 0) for count in per_image.values()),
    )


def _categories(entries: list[dict[str, Any]], objects: list[dict[str, Any]]) -> list[CategoryCount]:
    instances = Counter(a["category_id"] for a in objects)
    images = Counter(category_id for category_id, _ in {(a["category_id"], a["image_id"]) for a in objects})
    counts = [CategoryCount(e["id"], e["name"], instances[e["id"]], images[e["id"]]) for e in entries]
    return sorted(counts, key=lambda count: (-count.num_instances, count.category_id))


def _sides(bbox: list[float | int], entry: dict[str, Any]) -> tuple[float | int, float | int]:
    """Width and height of a box inside its image, in pixels; zeros if it is not finite."""
    if not all(map(math.isfinite, bbox)):
        return 0, 0
    x, y, width, height = bbox
    return (
        min(max(x + width, 0), entry["width"]) - min(max(x, 0), entry["width"]),
        min(max(y + height, 0), entry["height"]) - min(max(y, 0), entry["height"]),
    )


def _agreement(annotation: dict[str, Any], entry: dict[str, Any]) -> float:
    """Intersection over union of an annotation's box and the smallest one round its mask."""
    mask = annotation["segmentation"]
    if isinstance(mask, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in mask])
        bounds = np.concatenate([points.min(0), np.ptp(points, axis=0)])
    else:
        bounds = rle_masks.toBbox(coco.rle(mask, entry["height"], entry["width"]))
    return float(rle_masks.iou(bounds[None].astype(float), np.array([annotation["bbox"]], float), [0])[0, 0])
