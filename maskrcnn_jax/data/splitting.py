"""Splits an annotation file in COCO's format into a training set and a validation set."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any


def split(
    annotations: dict[str, Any],
    fraction: float,
    seed: int = 0,
    same: dict[int, int] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits the images and their annotations at random; both parts keep all other entries.

    The split depends on the image ids and the seed, not on the order of the file. Images of one
    photograph stay together.

    Args:
        annotations: The content of the file.
        fraction: Fraction of the images in the second part. Each part gets at least one image.
        seed: Seed of the random order.
        same: The result of `photographs`; without it each image is a photograph of its own.

    Returns:
        The content of the first and of the second part.

    Raises:
        ValueError: There are fewer than two photographs.
    """
    groups: dict[int, list[int]] = {}  # Image ids by photograph.
    for image_id in (entry["id"] for entry in annotations["images"]):
        groups.setdefault(same[image_id] if same else image_id, []).append(image_id)
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} images cannot be divided into two sets")

    def random_rank(photograph: int) -> bytes:
        return hashlib.sha256(f"{seed} {min(groups[photograph])}".encode()).digest()

    drawn = sorted(groups, key=random_rank)
    num_held_out = min(max(round(fraction * len(drawn)), 1), len(drawn) - 1)
    held_out = {image_id for photograph in drawn[:num_held_out] for image_id in groups[photograph]}
    rest = {image_id for photograph in drawn[num_held_out:] for image_id in groups[photograph]}
    return _only(annotations, rest), _only(annotations, held_out)


def photographs(files: dict[int, Path]) -> dict[int, int]:
    """The first image with the same photograph, for each image.

    Links to one file and copies of it are one photograph.

    Args:
        files: The file of each image id.
    """
    sizes = {image_id: path.stat().st_size for image_id, path in files.items()}
    num_of_size = Counter(sizes.values())
    first: dict[bytes, int] = {}
    found = {image_id: image_id for image_id in files}
    for image_id in (image_id for image_id, size in sizes.items() if num_of_size[size] > 1):
        with files[image_id].open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        found[image_id] = first.setdefault(digest, image_id)
    return found


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
