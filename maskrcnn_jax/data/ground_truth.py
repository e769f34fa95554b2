"""Annotations as an evaluation needs them: COCO files may leave out what training does not read."""

import math
from collections import Counter
from typing import Any

from pycocotools import mask as rle_masks

from maskrcnn_jax.data import coco


def complete(annotations: dict[str, Any]) -> dict[str, Any]:
    """Adds what evaluators read of every annotation, and leaves out crowds without a mask, which they cannot read.

    Annotations without `iscrowd` are no crowds. `area`, in pixels, is that of the mask where there is none, and `bbox`
    goes round the mask where it is missing or not finite. One warning counts the crowds that are left out and names
    their images.

    Args:
        annotations: Content of a file that `CocoDataset` has read without complaint; it is not written to.
    """
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in annotations["images"]}
    masked = [a for a in annotations["annotations"] if a.get("segmentation")]
    unmasked = Counter(a["image_id"] for a in annotations["annotations"] if not a.get("segmentation"))
    coco.warn_of_dropped("crowds without a mask, which an evaluation cannot read", unmasked)
    return annotations | {"annotations": [_complete(a, sizes[a["image_id"]]) for a in masked]}


def _complete(annotation: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    bbox, area = annotation.get("bbox"), annotation.get("area")
    if not bbox or not all(map(math.isfinite, bbox)):
        bbox = rle_masks.toBbox(coco.rle(annotation["segmentation"], *size)).tolist()
    if area is None:
        area = int(rle_masks.area(coco.rle(annotation["segmentation"], *size)))
    return annotation | {"iscrowd": int(bool(annotation.get("iscrowd"))), "bbox": bbox, "area": area}
