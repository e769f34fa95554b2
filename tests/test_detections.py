"""Detections against torchvision's steps, one after another in NumPy."""

from functools import partial

import jax
import numpy as np
import pytest

from maskrcnn_jax import detections
from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.detections import detect
from maskrcnn_jax.settings import freeze
from maskrcnn_jax.structures import Proposals
from tests import oracles
from tests.conftest import QUICK_COMPILE

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CONFIG = freeze(DetectionConfig(num_detections=30))
SIZE = np.array([80, 100])


@partial(jax.jit, static_argnames="config")
def run(logits, deltas, proposals, size, threshold, config=CONFIG):
    return detect(logits, deltas, proposals, size, threshold, config=config, box_weights=WEIGHTS)


def case(seed, num_proposals=40, num_classes=4, spread=2.0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-10, 70, (num_proposals, 2))
    boxes = np.concatenate(
        [corner, corner + rng.uniform(5, 50, (num_proposals, 2))], axis=1
    ).astype("f")
    logits = (spread * rng.normal(size=(num_proposals, num_classes))).astype("f")
    deltas = rng.normal(size=(num_proposals, num_classes, 4)).astype("f")
    return logits, deltas, Proposals(boxes, np.arange(num_proposals) < num_proposals - 5)


def detect_slowly(logits, deltas, proposals, threshold=0.05, config=CONFIG, sigmoid=False):
    """Rows ``(x0, y0, x1, y1, class, score)``, by torchvision's steps.

    Softmax or sigmoid, decode, clip, drop background, filter, suppress per class, take the best.
    """
    rows = []
    for r in np.flatnonzero(proposals.valid):
        exponentials = np.exp(logits[r] - logits[r].max())
        box = proposals.boxes[r]
        side = box[2:] - box[:2]
        for k in range(1, logits.shape[1]):
            shift, growth = deltas[r, k, :2] / np.float32(10), deltas[r, k, 2:] / np.float32(5)
            center = box[:2] + side / 2 + shift * side
            half = np.exp(np.minimum(growth, np.float32(np.log(1000 / 16)))) * side / 2
            moved = np.concatenate([center - half, center + half])
            moved = np.clip(moved, 0, np.float32([SIZE[1], SIZE[0]] * 2))
            score = exponentials[k] / exponentials.sum()
            score = 1 / (1 + np.exp(-logits[r, k])) if sigmoid else score
            if score > threshold and (moved[2:] - moved[:2] >= config.min_box_size).all():
                rows.append([*moved, k, score])
    rows = np.float32(rows).reshape(-1, 6)
    rows = rows[np.argsort(-rows[:, 5], kind="stable")]
    keep = oracles.nms(rows[:, :4], np.ones(len(rows), bool), config.nms_threshold, rows[:, 4])
    return rows[keep][: config.num_detections]


def check(found, expected):
    count, slots = len(expected), len(found.valid)
    np.testing.assert_array_equal(found.valid, np.arange(slots) < count)
    np.testing.assert_array_equal(found.classes[:count], expected[:, 4])
    np.testing.assert_allclose(found.scores[:count], expected[:, 5], rtol=1e-5)
    np.testing.assert_allclose(found.boxes[:count], expected[:, :4], rtol=1e-4, atol=1e-3)
    for padding in (found.boxes, found.classes, found.scores):
        np.testing.assert_array_equal(padding[count:], 0)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_oracle(seed):
    given = case(seed)
    expected = detect_slowly(*given)
    assert len(expected) == 30
    check(run(*given, SIZE, 0.05), expected)


def test_sigmoid_scores_ignore_background():
    logits, deltas, proposals = case(1, spread=3.0)
    config = freeze(DetectionConfig(num_detections=200))
    expected = detect_slowly(logits, deltas, proposals, 1e-4, config, sigmoid=True)
    assert 60 < len(expected) < 200
    rules = {"config": config, "box_weights": WEIGHTS, "classifier": "sigmoid"}
    run_by_sigmoid = jax.jit(partial(detect, **rules), compiler_options=QUICK_COMPILE)
    for background in (logits[:, 0], 9 * logits[:, 1]):
        logits[:, 0] = background
        check(run_by_sigmoid(logits, deltas, proposals, SIZE, 1e-4), expected)


def test_one_box_for_all_classes_is_that_of_each():
    logits, deltas, proposals = case(1)
    one = deltas[:, :1]
    expected = detect_slowly(logits, np.repeat(one, 4, axis=1), proposals)
    check(run(logits, one, proposals, SIZE, 0.05), expected)


def test_fewer_detections_than_slots():
    given = case(0)
    expected = detect_slowly(*given, threshold=0.8)
    assert 2 < len(expected) < 30
    check(run(*given, SIZE, 0.8), expected)


def test_nothing_above_the_threshold():
    check(run(*case(0), SIZE, 1.0), np.zeros((0, 6)))


def test_threshold_is_strict():
    # All scores are exactly 1/4.
    logits, deltas, proposals = case(1, num_classes=4, spread=0.0)
    check(run(logits, deltas, proposals, SIZE, 0.25), np.zeros((0, 6)))
    assert run(logits, deltas, proposals, SIZE, 0.2499).valid.any()


def test_ties_keep_the_order_of_proposals_and_classes():
    logits, deltas, proposals = case(2)
    # Few distinct rows: the same terms in another order would have another sum.
    rows = np.float32([[0, 2, 2, 1], [1, 3, 3, 0]])
    logits = rows[np.arange(len(logits)) % 2]
    check(run(logits, deltas, proposals, SIZE, 0.05), detect_slowly(logits, deltas, proposals))


def test_no_valid_proposal():
    logits, deltas, proposals = case(3)
    nothing = proposals._replace(boxes=0 * proposals.boxes, valid=0 * proposals.valid > 0)
    check(run(logits, deltas, nothing, SIZE, 0.0), np.zeros((0, 6)))


def test_boxes_outside_the_image_are_dropped():
    logits, deltas, proposals = case(4)
    check(
        run(logits, deltas, proposals._replace(boxes=proposals.boxes + 500), SIZE, 0.05),
        np.zeros((0, 6)),
    )


def test_padded_proposals_change_nothing():
    logits, deltas, proposals = case(5)
    expected = run(logits, deltas, proposals, SIZE, 0.05)
    padding = (~proposals.valid).reshape(-1, 1)
    noisy = Proposals(
        np.where(padding, np.float32([0, 0, 90, 70]), proposals.boxes), proposals.valid
    )
    found = run(np.where(padding, 9 * logits, logits), deltas, noisy, SIZE, 0.05)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_more_candidates_than_one_block_of_suppression():
    """400 proposals of 3 classes at threshold 0 give 1185 candidates; all of them may be needed."""
    config = freeze(DetectionConfig(num_detections=1000, nms_threshold=0.3))
    given = case(6, num_proposals=400)
    rows = detect_slowly(*given, threshold=0.0, config=config)
    assert 60 < len(rows) < 1000
    check(run(*given, SIZE, 0.0, config=config), rows)


def nineteen_thousand(side):
    """1000 proposals of 19 classes, on whole pixels and without deltas: no IoU is rounded."""
    rng = np.random.default_rng(7)
    corner = rng.integers(0, 60, (1000, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, side, (1000, 2))], axis=1).astype("f")
    proposals = Proposals(
        np.minimum(boxes, [SIZE[1], SIZE[0]] * 2).astype("f"), np.full(1000, True)
    )
    return np.zeros((1000, 20), "f"), np.zeros((1000, 20, 4), "f"), proposals


@pytest.mark.parametrize("side, num_survivors", [(20, 1653), (80, 532)])
def test_nineteen_thousand_candidates(side, num_survivors):
    """All candidates have one score, so they enter suppression by proposal and class.

    There are 1000 slots. Small boxes fill them; with large boxes, the last candidate is visited.
    """
    config = freeze(DetectionConfig(num_detections=1000, nms_threshold=0.02))
    proposals = nineteen_thousand(side)[2]
    keep = oracles.nms(proposals.boxes, proposals.valid, config.nms_threshold)
    assert 19 * keep.sum() == num_survivors
    rows = [[*box, k, 1 / 20] for box in proposals.boxes[keep] for k in range(1, 20)]
    check(run(*nineteen_thousand(side), SIZE, 0.0, config=config), np.float32(rows)[:1000])


def test_the_last_of_nineteen_thousand_candidates_may_be_the_second_detection():
    """All better boxes suppress each other: a limit of a few thousand candidates would miss it."""
    boxes = np.tile(np.float32([10, 10, 50, 50]), (19_000, 1))
    boxes[-1] = [60, 60, 90, 70]
    scores = np.linspace(1, 0.1, 19_000, dtype="f")
    classes, valid = np.ones(19_000, np.int32), np.full(19_000, True)
    order = np.random.default_rng(0).permutation(19_000)
    best = jax.jit(partial(detections.keep_best, config=CONFIG))
    found = best(*(x[order] for x in (boxes, classes, scores, valid)))
    np.testing.assert_array_equal(found.boxes[:2], boxes[[0, -1]])
    np.testing.assert_array_equal(found.scores[:2], scores[[0, -1]])
    assert found.valid.sum() == 2
