"""Compares ops with NumPy on the accelerator at hand, for `benchmarks.gpu`: boxes and scores.

The tests do the same, more thoroughly, on a CPU; but a GPU has forms of ops of its own.
`gpu_checks_maps` has the checks of ops on maps.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import gpu_models
from benchmarks.gpu_timing import Row
from maskrcnn_jax.ops import anchors, boxes, matching, nms, ranking, sampling

CANVAS = 512, 640
# The largest allowed difference, compared with the largest number. By default a GPU multiplies
# float32 with 10 bits (TF32). bfloat16 has 8.
EXACT, FLOAT32, TF32, BFLOAT16 = 0.0, 2e-5, 3e-3, 1e-2


class Check(NamedTuple):
    """Two results that should be equal."""

    result: Any
    expected: Any  # From NumPy, in the same structure.
    tolerance: float = EXACT


def run(checks: dict[str, Callable[[], Check]], seconds: float) -> Row:
    """Runs checks until the time is up: the difference of each, and which failed or were not run.

    Args:
        checks: By name.
        seconds: No check starts later.
    """
    end = time.monotonic() + seconds
    row: Row = {"differences": {}, "failures": {}, "not_run": []}
    for name, make in checks.items():
        if time.monotonic() > end:
            row["not_run"].append(name)
            continue
        try:
            check = make()
            row["differences"][name] = difference = _difference(check)
        except Exception as error:  # The other ops still count.
            row["failures"][name] = f"{type(error).__name__}: {str(error)[:300]}"
            continue
        if not difference <= check.tolerance:  # NaN fails too.
            row["failures"][name] = f"differs by {difference:.2g}, allowed {check.tolerance:.2g}"
    return row | {"passed": len(row["differences"].keys() - row["failures"].keys())}


def of_boxes() -> dict[str, Callable[[], Check]]:
    """The checks of ops on boxes and scores."""
    return {
        "NMS": suppress,
        "NMS in blocks": select,
        "matching": match,
        "top-k": top_k,
        "sampling": sample,
        "boxes": code_boxes,
        "anchors": grid,
    }


def suppress() -> Check:
    from tests import oracles

    found, valid, groups = _crowd(600)
    ours = jax.jit(partial(nms.suppress, threshold=0.7))(found, valid, groups=groups)
    return Check(ours, oracles.nms(found, valid, 0.7, groups))


def select() -> Check:
    from tests import oracles

    found, valid, groups = _crowd(600)
    settings = {"threshold": 0.5, "num_selected": 40, "block_size": 128}
    indices, used = jax.jit(partial(nms.select, **settings))(found, valid, groups)
    expected = np.flatnonzero(oracles.nms(found, valid, 0.5, groups))[:40]
    return Check(np.asarray(indices)[np.asarray(used)], expected)


def match() -> Check:
    """Matching of all P4 anchors by the rule of torchvision's Matcher."""
    random = np.random.default_rng(3)
    objects, valid = gpu_models.boxes(50, CANVAS, seed=3), np.arange(50) < 20
    candidates = gpu_models.boxes(4000, CANVAS, seed=4)
    near = objects[random.integers(0, 20, 1000)] + random.normal(0, 4, (1000, 4))
    candidates[:1000] = near.astype("f")
    rule = {"positive_iou": 0.7, "negative_iou": 0.3, "low_quality": "label"}

    def ours(objects: Any, valid: Any, candidates: Any) -> Any:
        overlaps = partial(boxes.pairwise_iou, b=candidates)
        found = matching.match(objects, valid, overlaps, **rule)
        return *found, overlaps(objects)

    instance, label, iou = map(np.asarray, jax.jit(ours)(objects, valid, candidates))
    iou = iou[:20]
    best = iou.max(axis=0)
    is_positive = (best >= 0.7) | (iou == iou.max(axis=1, keepdims=True)).any(axis=0)
    expected = iou.argmax(axis=0), np.where(is_positive, 1, np.where(best < 0.3, 0, -1))
    return Check((instance, label), expected)


def top_k() -> Check:
    x = np.random.default_rng(5).integers(0, 5000, 70_000).astype("f")  # Many are equal.
    order = np.argsort(-x, kind="stable")[:1000]
    return Check(jax.jit(partial(ranking.top_k, count=1000))(x), (x[order], order))


def sample() -> Check:
    random = np.random.default_rng(6)
    priority = random.permutation(2**20)[:50_000].astype(np.uint32) * 4096
    labels = random.choice([1, 0, -1], 50_000, p=[0.001, 0.9, 0.099])
    settings = {"num_samples": 256, "max_positives": 128}
    ours = jax.jit(partial(sampling.sample, **settings))(priority, labels == 1, labels == 0)
    order = np.argsort(-priority.astype(np.int64))
    positives = [i for i in order if labels[i] == 1][:128]
    negatives = [i for i in order if labels[i] == 0][: 256 - len(positives)]
    is_positive = np.arange(256) < len(positives)
    return Check(ours, (np.array(positives + negatives), is_positive, np.ones(256, bool)))


def code_boxes() -> Check:
    """Decoded deltas of other boxes give these boxes again; clipped ones end with the image."""
    found, near, weights = (
        gpu_models.boxes(500, CANVAS),
        gpu_models.boxes(500, CANVAS, 1),
        (1.0,) * 4,
    )

    def ours(found: Any, near: Any, size: Any) -> Any:
        moved = boxes.decode(boxes.encode(found, near, weights), near, weights)
        return moved, boxes.clip(found, size), boxes.encode(found, near, weights)

    size = np.array([300, 400])
    limits = np.array([400, 300, 400, 300])
    (x, y, w, h), (u, v, s, t) = (
        ((b[:, 0] + b[:, 2]) / 2, (b[:, 1] + b[:, 3]) / 2, b[:, 2] - b[:, 0], b[:, 3] - b[:, 1])
        for b in (found.astype(np.float64), near.astype(np.float64))
    )
    deltas = np.stack([(x - u) / s, (y - v) / t, np.log(w / s), np.log(h / t)], axis=1)
    expected = found, np.minimum(found, limits), deltas
    return Check(jax.jit(ours)(found, near, size), expected, FLOAT32)


def grid() -> Check:
    canvas = np.array(CANVAS)
    ours = jax.jit(
        lambda canvas: anchors.pyramid_anchors({4: (34, 40)}, canvas, (64,), (0.5, 1.0, 2.0))[4]
    )(canvas)
    bases = anchors.cell_anchors(64, (0.5, 1.0, 2.0))
    y, x = np.mgrid[:34, :40] * 16
    expected = np.stack([x, y, x, y], axis=-1)[None] + bases[:, None, None]
    inside = np.broadcast_to(np.arange(34)[:, None] < 32, (3, 34, 40))
    return Check(ours, (expected.reshape(-1, 4), inside.reshape(-1)))


def _crowd(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes that crowd around 20 objects, as proposals do; valid ones; three groups."""
    random = np.random.default_rng(12)
    around = gpu_models.boxes(20, CANVAS, seed=2)[random.integers(0, 20, count)]
    sides = np.tile(around[:, 2:] - around[:, :2], 2)
    found = (around + random.normal(0, 0.1, around.shape) * sides).astype("f")
    return found, random.random(count) < 0.9, random.integers(0, 3, count).astype(np.int32)


def _difference(check: Check) -> float:
    """The largest difference, compared with the largest number of the same array.

    Raises:
        ValueError: The shapes differ.
    """
    worst = 0.0
    pairs = zip(jax.tree.leaves(check.result), jax.tree.leaves(check.expected), strict=True)
    for found, expected in pairs:
        found, expected = (np.asarray(x, np.float64) for x in (found, expected))
        if found.shape != expected.shape:
            raise ValueError(f"the shape is {found.shape}, expected {expected.shape}")
        largest = max(np.abs(expected).max(initial=0), 1e-12)
        worst = np.maximum(worst, np.abs(found - expected).max(initial=0) / largest)
    return float(worst)
