"""A sheet of validation images with what the model found in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_jax import visualize
from maskrcnn_jax.data import coco
from maskrcnn_jax.data.categories import Categories

SCORE_THRESHOLD = 0.5  # Evaluation keeps far weaker detections, which would hide the others.
SMALLEST_SIDE = 384  # Pixels; smaller images are enlarged by a whole number, for their labels to be legible.


def write(
    path: str | Path, dataset: Any, detections: Sequence[dict], categories: Categories, *, count: int = 12
) -> None:
    """Draws detections, given as COCO results, over images taken evenly from a data set, four in a row."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    pictures = [_picture(dataset[int(i)], detections, categories) for i in chosen]
    Image.fromarray(visualize.contact_sheet(pictures, columns=4)).save(path)


def _picture(example: coco.Example, detections: Sequence[dict], categories: Categories) -> np.ndarray:
    height, width = example.image.shape[:2]
    shown = [d for d in detections if d["image_id"] == example.image_id and d["score"] > SCORE_THRESHOLD]
    boxes = np.array([d["bbox"] for d in shown], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # COCO gives width and height.
    return visualize.draw(
        example.image,
        boxes,
        [categories.label(d["category_id"]) for d in shown],
        [d["score"] for d in shown],
        np.array([coco.decode_mask(d["segmentation"], height, width) for d in shown]).reshape(-1, height, width),
        categories.names,
        scale=max(1, round(SMALLEST_SIDE / min(height, width))),
    )
