"""Splits an annotation file in COCO's format into a training set and a validation set."""

import hashlib
import posixpath
from typing import Any


def split(
    annotations: dict[str, Any], fraction: float, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits the images and their annotations at random; both parts keep all other entries.

    The split depends on the image ids and the seed, not on the order of the file. Images of one
    file stay together.

    Args:
        annotations: The content of the file.
        fraction: Fraction of the images in the second part. Each part gets at least one image.
        seed: Seed of the random order.

    Returns:
        The content of the first and of the second part.

    Raises:
        ValueError: There are images of fewer than two files.
    """
    files: dict[str, list[int]] = {}  # Image ids by file name.
    for entry in annotations["images"]:
        files.setdefault(_plain(entry["file_name"]), []).append(entry["id"])
    if len(files) < 2:
        raise ValueError(f"{len(files)} images cannot be divided into two sets")

    def random_rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {min(files[name])}".encode()).digest()

    drawn = sorted(files, key=random_rank)
    num_held_out = min(max(round(fraction * len(drawn)), 1), len(drawn) - 1)
    held_out = {image_id for name in drawn[:num_held_out] for image_id in files[name]}
    rest = {image_id for name in drawn[num_held_out:] for image_id in files[name]}
    return _only(annotations, rest), _only(annotations, held_out)


def _plain(file_name: str) -> str:
    """A path in one notation, so that "a.jpg", "./a.jpg" and ".\\a.jpg" are one file."""
    return posixpath.normpath(file_name.replace("\\", "/"))


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
