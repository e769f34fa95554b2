"""Completes annotations for evaluation: COCO files may lack fields that training does not read."""

import math
from collections import Counter
from typing import Any

from pycocotools import mask as codec

from maskrcnn_jax.data import coco, rle
from maskrcnn_jax.data.annotations import may_have_area


def complete(annotations: dict[str, Any], masks: bool = True) -> dict[str, Any]:
    """Fills in the fields that COCO evaluators read and drops annotations that they cannot read.

    A missing `iscrowd` becomes 0. A missing `area` becomes the area of the mask, or of the box if
    there is no mask, in square pixels. So does an area that the object cannot have: it would put
    the object among the small or large ones. A `bbox` that is missing or not finite becomes the
    smallest box around the mask. One warning counts the dropped crowds and names their images;
    `annotations.read` has warned of the areas.

    Args:
        annotations: The content of a file that `CocoDataset` accepts; it is not modified.
        masks: Whether masks are evaluated. If so, annotations without a mask are dropped, because
            no detection could match them; `CocoDataset` has warned of them, except of crowds.
            Otherwise a finite box is enough.

    Returns:
        A copy with the completed annotations.
    """
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in annotations["images"]}
    found = annotations["annotations"]
    readable, dropped_crowds = [], Counter()
    for annotation in found:
        if annotation.get("segmentation") or (not masks and _has_box(annotation)):
            readable.append(annotation)
        elif annotation.get("iscrowd"):
            dropped_crowds[annotation["image_id"]] += 1
    needed = "a mask" if masks else "a mask or a box"
    coco.warn_of_dropped(
        f"crowds without {needed}, which an evaluation cannot read", dropped_crowds
    )
    return annotations | {"annotations": [_complete(a, sizes[a["image_id"]]) for a in readable]}


def _has_box(annotation: dict[str, Any]) -> bool:
    bbox = annotation.get("bbox")
    return bool(bbox) and all(map(math.isfinite, bbox))


def _complete(annotation: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    mask, bbox = annotation.get("segmentation"), annotation.get("bbox")
    area = annotation.get("area")
    if not _has_box(annotation):
        bbox = codec.toBbox(rle.encode(mask, *size)).tolist()
    if area is None or not may_have_area(annotation, *size):
        area = int(codec.area(rle.encode(mask, *size))) if mask else bbox[2] * bbox[3]
    return annotation | {
        "iscrowd": int(bool(annotation.get("iscrowd"))),
        "bbox": bbox,
        "area": area,
    }
