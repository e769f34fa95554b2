"""Divides an annotation file in COCO's format into images to train on and images to judge by."""

import hashlib
from typing import Any


def split(annotations: dict[str, Any], fraction: float, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same file twice, each with a part of the images and their annotations, and all of the rest.

    The draw depends on the ids of the images and the seed, not on the order of the file.

    Args:
        annotations: content of the file.
        fraction: of the images, for the second part; at least one image goes into either.

    Raises:
        ValueError: There are fewer than two images.
    """
    image_ids = [entry["id"] for entry in annotations["images"]]
    if len(image_ids) < 2:
        raise ValueError(f"{len(image_ids)} images cannot be divided into two sets")
    drawn = sorted(image_ids, key=lambda image_id: hashlib.sha256(f"{seed} {image_id}".encode()).digest())
    num_held_out = min(max(round(fraction * len(drawn)), 1), len(drawn) - 1)
    held_out = set(drawn[:num_held_out])
    return _only(annotations, set(image_ids) - held_out), _only(annotations, held_out)


def count(annotations: dict[str, Any], category_id: int) -> int:
    """The objects of a category, crowds left out."""
    return sum(a["category_id"] == category_id and not a.get("iscrowd", 0) for a in annotations["annotations"])


def _only(annotations: dict[str, Any], image_ids: set[Any]) -> dict[str, Any]:
    return annotations | {
        "images": [entry for entry in annotations["images"] if entry["id"] in image_ids],
        "annotations": [entry for entry in annotations["annotations"] if entry["image_id"] in image_ids],
    }
