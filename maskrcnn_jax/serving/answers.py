"""The answer of the server: the detections of an image as JSON."""

import time
from typing import Any

import jax
import numpy as np

from maskrcnn_jax import pasting
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.resizing import Size
from maskrcnn_jax.structures import Detections


def answer(
    detector: Detector, found: Detections, size: Size, top_k: int, masks: bool, deadline: float
) -> dict[str, Any]:
    """Maps detections to the pixels of the uploaded image, ready for JSON.

    Masks are pasted and encoded one after the other, so that a large image with many objects needs
    the memory of one of them.

    Args:
        detector: The detector that found them.
        found: Detections in pixels of the resized image.
        size: Height and width of the uploaded image.
        top_k: The number of detections to keep, those of highest score.
        masks: Whether to add masks as run lengths.
        deadline: When to give up, by `time.monotonic`.

    Raises:
        TimeoutError: The deadline has passed.
    """
    resized, _ = detector.place(size)
    if not masks:
        found = found._replace(masks=None)
    detections = []
    for i in range(min(len(found.valid), top_k)):
        if time.monotonic() > deadline:
            raise TimeoutError
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], found)
        detections += _described(detector, one, resized, size)
    return {"size": list(size), "detections": detections}


def _described(
    detector: Detector, one: Detections, resized: Size, size: Size
) -> list[dict[str, Any]]:
    """Describes one detection; the list is empty if its slot is."""
    boxes, labels, scores, patches = pasting.to_original(
        one, resized, size, detector.model.detection
    )
    described = []
    for i, label in enumerate(labels.tolist()):
        entry = {
            "box": boxes[i].tolist(),
            "label": label,
            "category_id": detector.categories.category_id(label),
            "name": detector.categories.name(label),
            "score": float(np.float32(scores[i])),
        }
        if patches is not None:
            entry["mask"] = pasting.encode(*patches[i], size)
        described.append(entry)
    return described
