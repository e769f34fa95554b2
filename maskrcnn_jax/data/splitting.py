"""Splits an annotation file in COCO's format into a training set and a validation set."""

import hashlib
from typing import Any


def split(
    annotations: dict[str, Any], fraction: float, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits the images and their annotations at random; both parts keep all other entries.

    The split depends on the image ids and the seed, not on the order of the file.

    Args:
        annotations: The content of the file.
        fraction: Fraction of the images in the second part. Each part gets at least one image.
        seed: Seed of the random order.

    Returns:
        The content of the first and of the second part.

    Raises:
        ValueError: There are fewer than two images.
    """
    image_ids = [entry["id"] for entry in annotations["images"]]
    if len(image_ids) < 2:
        raise ValueError(f"{len(image_ids)} images cannot be divided into two sets")

    def random_rank(image_id: Any) -> bytes:
        return hashlib.sha256(f"{seed} {image_id}".encode()).digest()

    drawn = sorted(image_ids, key=random_rank)
    num_held_out = min(max(round(fraction * len(drawn)), 1), len(drawn) - 1)
    held_out = set(drawn[:num_held_out])
    return _only(annotations, set(image_ids) - held_out), _only(annotations, held_out)


def count(annotations: dict[str, Any], category_id: int) -> int:
    """Returns the number of objects of a category, without crowds."""
    return sum(
        a["category_id"] == category_id and not a.get("iscrowd", 0)
        for a in annotations["annotations"]
    )


def _only(annotations: dict[str, Any], image_ids: set[Any]) -> dict[str, Any]:
    images = [entry for entry in annotations["images"] if entry["id"] in image_ids]
    objects = [entry for entry in annotations["annotations"] if entry["image_id"] in image_ids]
    return annotations | {"images": images, "annotations": objects}
