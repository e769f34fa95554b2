"""Sheets of images: what a model found in them, how they are annotated, and what training makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maskrcnn_jax import captions, pasting, visualize
from maskrcnn_jax.data import coco
from maskrcnn_jax.data.augmentation import Sample
from maskrcnn_jax.data.categories import Categories

SCORE_THRESHOLD = 0.5  # Evaluation keeps far weaker detections, which would hide the others.
LONG_SIDE = 640  # Pixels: pictures become as large as this, for all names to be legible and no sheet to be huge.

Picture = UInt8[np.ndarray, "_ _ 3"]


def write(
    path: str | Path, dataset: Any, detections: Sequence[dict], categories: Categories, *, count: int = 12
) -> None:
    """Draws detections, given as COCO results, over images taken evenly from a data set, four in a row."""
    pictures = [found(dataset[i], detections, categories) for i in evenly(len(dataset), count)]
    Image.fromarray(visualize.contact_sheet(pictures, columns=4)).save(path)


def samples(dataset: Any, detections: Sequence[dict], categories: Categories, *, count: int = 4) -> dict[str, Picture]:
    """Detections, given as COCO results, drawn over images taken evenly from a data set; each picture by a name."""
    examples = [dataset[i] for i in evenly(len(dataset), count)]
    return {f"predictions/image {x.image_id}": found(x, detections, categories) for x in examples}


def evenly(length: int, count: int) -> list[int]:
    """At most ``count`` positions in a sequence, first and last included, as far apart as possible."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def found(example: coco.Example, detections: Sequence[dict], categories: Categories) -> Picture:
    """An image with what was found in it; the detections may be of other images too."""
    height, width = example.image.shape[:2]
    shown = [d for d in detections if d["image_id"] == example.image_id and d["score"] > SCORE_THRESHOLD]
    return visualize.draw(
        example.image,
        _corners([d["bbox"] for d in shown]),
        [categories.label(d["category_id"]) for d in shown],
        [d["score"] for d in shown],
        [coco.decode_mask(d["segmentation"], height, width) for d in shown],
        categories.names,
        scale=LONG_SIDE / max(height, width),
    )


def annotated(
    example: coco.Example, crowds: Sequence[dict], categories: Categories, long_side: int = LONG_SIDE
) -> Picture:
    """An image with its ground truth, and a title that counts it.

    Args:
      crowds: COCO annotations of this image that are crowds; those without a mask are only counted.
      long_side: of the picture, in pixels.
    """
    height, width = example.image.shape[:2]
    regions = [crowd for crowd in crowds if crowd.get("segmentation")]
    masks = [coco.decode_mask(mask, height, width) for mask in example.masks]
    hatched = [coco.decode_mask(crowd["segmentation"], height, width) for crowd in regions]
    picture = visualize.draw(
        example.image,
        np.concatenate([example.boxes, *(_bounds(mask)[None] for mask in hatched)]),
        [*example.classes.tolist(), *(categories.label(crowd["category_id"]) for crowd in regions)],
        None,
        masks + hatched,
        categories.names,
        crowd=[False] * len(masks) + [True] * len(hatched),
        scale=long_side / max(height, width),
    )
    title = f"image {example.image_id}: {height}x{width}, {_counted(len(example.boxes), 'object')}"
    return captions.title(picture, title + (f", {_counted(len(crowds), 'crowd')}" if crowds else ""))


def varied(
    sample: Sample, categories: Categories, title: str, long_side: int = LONG_SIDE, *, mask_store: str
) -> Picture:
    """An image as training sees it: masks with the resolution they are trained at, no object without a slot.

    Args:
      long_side: of the picture, in pixels.
      mask_store: of the config that the sample was made with; "full" masks cover the image, others their box.
    """
    height, width = sample.image.shape[:2]
    masks = list(sample.masks / np.float32(255))
    if mask_store != "full":
        masks = [
            pasting.paste_in_box(mask, box, (height, width)) for mask, box in zip(masks, sample.boxes, strict=True)
        ]
    picture = visualize.draw(
        sample.image, sample.boxes, sample.classes, None, masks, categories.names, scale=long_side / max(height, width)
    )
    title = f"{title}: {height}x{width}, {_counted(len(sample.boxes), 'object')}"
    return captions.title(picture, title + (f", {sample.num_surplus} without a slot" if sample.num_surplus else ""))


def _corners(boxes: Sequence[Sequence[float | int]]) -> np.ndarray:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]  # COCO gives width and height.
    return corners


def _bounds(mask: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
