"""Contenders that compute COCO's numbers of boxes and masks for a whole validation set."""

import contextlib
import io
from typing import Any

import numpy as np

from benchmarks.contender import Run

NUM_IMAGES, NUM_OBJECTS, NUM_DETECTIONS, NUM_CLASSES = 5000, 7, 100, 80
SIZE = (480, 640)


def ours() -> Run:
    """Computes the numbers as `maskrcnn-jax evaluate` does, from data in memory."""
    from maskrcnn_jax import coco_metrics

    annotations, results = _data()
    return lambda: [
        coco_metrics.coco_summary(annotations, results, kind) for kind in ("bbox", "segm")
    ]


def pycocotools() -> Run:
    """Computes the numbers with pycocotools alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = _data()

    def summary(kind: str) -> np.ndarray:
        truth = COCO()
        entries = [dict(entry) for entry in annotations["annotations"]]
        truth.dataset = annotations | {"annotations": entries}
        truth.createIndex()
        # Given a "bbox", pycocotools would use the area of the box instead of the mask.
        dropped = "bbox" if kind == "segm" else "segmentation"
        kept = [{k: v for k, v in entry.items() if k != dropped} for entry in results]
        detected = truth.loadRes(kept)
        evaluator = COCOeval(truth, detected, kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return evaluator.stats

    def run() -> list[np.ndarray]:
        with contextlib.redirect_stdout(io.StringIO()):
            return [summary(kind) for kind in ("bbox", "segm")]

    return run


def compare(theirs: list[np.ndarray], ours: list[dict[str, float]]) -> str:
    """Compares the twelve numbers of boxes and masks. Raises ValueError if a number differs."""
    pairs = zip(theirs, ours, strict=True)
    difference = max(float(np.abs(a - list(b.values())).max()) for a, b in pairs)
    if difference > 1e-12:
        raise ValueError(f"the numbers differ by {difference:.1e}")
    return f"the same numbers, mask AP {ours[1]['AP']:.3f}"


def _data() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Random annotations and results; some detections lie on objects."""
    random = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, NUM_IMAGES + 1):
        boxes = _boxes(random, NUM_OBJECTS)
        classes = random.integers(1, NUM_CLASSES + 1, NUM_OBJECTS)
        for box, label in zip(boxes, classes, strict=True):
            entry = _entry(box, int(label), image_id)
            entry |= {"area": float(box[2] * box[3]), "iscrowd": 0}
            annotations.append(entry | {"id": len(annotations) + 1})
        of_object = random.integers(0, NUM_OBJECTS, NUM_DETECTIONS)
        near = boxes[of_object] * random.uniform(0.85, 1.15, (NUM_DETECTIONS, 4))
        is_near = random.random((NUM_DETECTIONS, 1)) < 0.2
        found = np.where(is_near, near, _boxes(random, NUM_DETECTIONS))
        right = random.random(NUM_DETECTIONS) < 0.8
        others = random.integers(1, NUM_CLASSES + 1, NUM_DETECTIONS)
        labels = np.where(right, classes[of_object], others)
        for box, label, score in zip(found, labels, random.random(NUM_DETECTIONS), strict=True):
            results.append(_entry(box, int(label), image_id) | {"score": float(score)})
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, NUM_IMAGES + 1)]
    categories = [{"id": i, "name": str(i)} for i in range(1, NUM_CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """Random boxes as (x, y, width, height)."""
    sides = np.exp(random.uniform(np.log(12), np.log(300), (count, 2)))
    return np.concatenate([random.uniform(0, np.array(SIZE[::-1]) - sides), sides], axis=1)


def _entry(box: np.ndarray, label: int, image_id: int) -> dict[str, Any]:
    """An entry of COCO's format; its mask is the box without one corner."""
    from maskrcnn_jax import pasting

    x, y, width, height = box.tolist()
    top, left = int(np.clip(y, 0, SIZE[0] - 1)), int(np.clip(x, 0, SIZE[1] - 1))
    sides = (max(min(int(height), SIZE[0] - top), 1), max(min(int(width), SIZE[1] - left), 1))
    inside = np.ones(sides, np.float32)
    inside[0, 0] = inside[-1, -1] = sides[0] * sides[1] == 1
    mask = pasting.encode(inside, (top, left), SIZE)
    entry = {"image_id": image_id, "category_id": label, "bbox": [x, y, width, height]}
    return entry | {"segmentation": mask}
