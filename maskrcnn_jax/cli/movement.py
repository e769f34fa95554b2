"""How far detections move between two detectors with the same weights and other rules."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle_codec

from maskrcnn_jax.cli import progress
from maskrcnn_jax.detector import Detector

MIN_IOU = 0.5  # Boxes that overlap less are not the same detection.


class Movement(NamedTuple):
    """The detections of one image on two sides: those that pair, and how far they differ."""

    image: str
    here: int
    there: int
    pairs: int
    box: tuple[float, float]  # Median and largest distance of corners, in pixels of the image.
    score: tuple[float, float]  # The same for scores.
    mask_iou: float | None  # The mean over pairs; None without masks.


def measure(here: Detector, there: Detector, paths: Sequence[Path]) -> list[Movement]:
    """Detects the objects of images on both sides, and pairs those of one category.

    Raises:
        OSError, ValueError: An image cannot be read; the message names it.
    """
    found = []
    with progress.images("detections", 2 * len(paths)) as advance:
        for path in paths:
            results = []
            for detector in (here, there):
                (result,) = detector(path, masks="rle")
                labels = result["labels"].tolist()
                categories = [detector.categories.category_id(label) for label in labels]
                results.append(result | {"categories": np.array(categories)})
                advance(1)
            found.append(_compare(path.name, *results))
    return found


def _compare(image: str, here: dict[str, Any], there: dict[str, Any]) -> Movement:
    pairs = _pairs(here, there)
    first, second = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    boxes = np.abs(here["boxes"][first] - there["boxes"][second]).max(axis=1, initial=0)
    scores = np.abs(here["scores"][first] - there["scores"][second])
    mask_iou = None
    if "masks" in here:
        ious = [_mask_iou(here["masks"][i], there["masks"][j]) for i, j in pairs]
        mask_iou = float(np.mean(ious)) if ious else None
    counts = len(here["boxes"]), len(there["boxes"]), len(pairs)
    return Movement(image, *counts, _summary(boxes), _summary(scores), mask_iou)


def _pairs(here: dict[str, Any], there: dict[str, Any]) -> list[tuple[int, int]]:
    """Pairs detections by descending score, each with the free one that it overlaps most."""
    free, pairs = np.ones(len(there["boxes"]), bool), []
    for i, box in enumerate(here["boxes"]):
        overlaps = _iou(box, there["boxes"]) * free
        overlaps *= there["categories"] == here["categories"][i]
        if len(overlaps) and overlaps.max() >= MIN_IOU:
            j = int(overlaps.argmax())
            free[j] = False
            pairs.append((i, j))
    return pairs


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return common / np.maximum(areas - common, 1e-9)


def _mask_iou(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The overlap of two run lengths; 1 for two masks without a pixel."""
    is_empty = rle_codec.area(a) == 0 and rle_codec.area(b) == 0
    return 1.0 if is_empty else float(rle_codec.iou([a], [b], [0])[0, 0])


def _summary(values: np.ndarray) -> tuple[float, float]:
    return (float(np.median(values)), float(values.max())) if len(values) else (0.0, 0.0)


def to_markdown(found: Sequence[Movement]) -> str:
    """Returns a table with a line for each image."""
    lines = [
        "| image | here | there | pairs | box: median, largest (px) | score: median, largest "
        "| IoU of masks |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        box, score = ("{:.2g}, {:.2g}".format(*x) for x in (each.box, each.score))
        iou = "" if each.mask_iou is None else f"{each.mask_iou:.4f}"
        counts = f"{each.here} | {each.there} | {each.pairs}"
        lines.append(f"| {each.image} | {counts} | {box} | {score} | {iou} |")
    return "\n".join(lines)
