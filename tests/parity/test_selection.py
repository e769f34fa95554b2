"""The selections of a side, recomputed in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import boxes as box_ops
from maskrcnn_jax.parity import selection
from maskrcnn_jax.parity.selection import Selection, Side
from tests.parity.simulation import FAR, config, simulate


def side_of(settings, *arguments, **values):
    return Side("ours", simulate(settings, *arguments, **values), settings)


def test_keys_follow_the_anchors_and_the_classes():
    side = side_of(config(), FAR, [0.6, 0.9, 0.7, 0.8], classes=[1, 2, 1, 2])
    assert [side.proposals.key(i) for i in range(4)] == [0, 1, 2, 3]
    # Best first: the anchors 1, 3, 2, 0, times three classes, plus the class.
    assert [side.detections.key(i) for i in range(4)] == [5, 11, 7, 1]
    assert side.detections.rank == {5: 0, 11: 1, 7: 2, 1: 3}
    keys = side.detections.keys
    assert side.detections.position == {int(key): i for i, key in enumerate(keys)}


def test_a_box_that_is_no_candidate_has_a_key_of_its_own():
    settings = config()
    outcome = simulate(settings, FAR[:2], [0.9, 0.8])
    moved = outcome._replace(boxes=outcome.boxes + [[0], [0.06]], proposals=outcome.proposals - 1)
    side = Side("ours", moved, settings)
    assert [side.proposals.key(i) for i in range(2)] == [-1, -2]
    assert side.detections.key(1) == -2
    near = Side("ours", outcome._replace(boxes=outcome.boxes + 0.04), settings)
    assert near.detections.key(1) > 0


def test_small_boxes_are_no_candidates():
    settings = config()
    settings.model.rpn.min_box_size, settings.detection.min_box_size = 10.0, 20.0
    side = side_of(settings, [[0, 0, 9, 50], [0, 0, 10, 50], [60, 0, 80, 50]], [0.9, 0.8, 0.7])
    assert side.proposals.keys.tolist() == [1, 2]
    assert {int(key) // 3 for key in side.detections.keys} == {2}


def test_candidates_are_the_best_of_their_level():
    settings = config(num_candidates=2)
    side = side_of(settings, FAR, [0.9] * 4, objectness=[1, 3, 0, 2])
    assert side.proposals.keys.tolist() == [1, 3]
    np.testing.assert_allclose(side.proposals.scores, 1 / (1 + np.exp([-3.0, -2.0])))


def test_a_program_that_sorts_probabilities_may_take_any_of_equal_ones():
    settings = config(num_candidates=1)
    outcome = simulate(settings, FAR[:3], [0.9] * 3, objectness=[15.1, 15.0, 3.0])
    for sorts_by, expected in (("logit", [0]), ("probability", [0, 1])):
        side = Side("peer", outcome, settings, sorts_by=sorts_by)
        assert side.proposals.keys.tolist() == expected


def test_overlaps_are_zero_across_groups():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]], np.float64)
    found = Selection(
        keys=np.arange(3),
        groups=np.array([1, 1, 2]),
        scores=np.ones(3),
        boxes=boxes,
        selected=np.array([0, -1]),
        nms_threshold=0.5,
        limit=2,
        max_boxes_with_offsets=3,
    )
    np.testing.assert_allclose(found.overlaps(0), [1, 1 / 3, 0])
    assert [found.key(0), found.key(1)] == [0, -2]
    assert found.coordinate_rounding == np.spacing(np.float32(3 * 16))


@pytest.mark.parametrize("limit_shrinking", [False, True])
def test_boxes_are_decoded_as_in_the_model(limit_shrinking):
    rng = np.random.default_rng(0)
    anchors = np.array(FAR, np.float32)
    deltas = rng.normal(scale=4, size=(4, 4)).astype(np.float32)
    deltas[0, 2:] = -60, 60
    weights = (2.0, 2.0, 1.0, 1.0)
    rule = {"limit_shrinking": True} if limit_shrinking else {}
    expected = box_ops.decode(jnp.asarray(deltas), jnp.asarray(anchors), weights, **rule)
    found = selection.decode(deltas, anchors, weights, limit_shrinking)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_clipped_boxes_and_their_sides():
    boxes = selection.clip(np.array([[-5.0, 3, 30, 25]]), (20, 25))
    assert boxes.tolist() == [[0, 3, 25, 20]] and selection.shorter_side(boxes).tolist() == [17]
    assert selection.shorter_side(np.zeros((0, 4))).shape == (0,)


def test_probabilities_of_each_classifier():
    logits = np.array([[1.0, 2.0, 800.0]], np.float32)
    softmax = selection.probabilities(logits, "softmax")
    assert softmax.dtype == np.float64 and softmax.sum() == pytest.approx(1) and softmax[0, 2] == 1
    sigmoid = selection.probabilities(logits, "sigmoid")
    np.testing.assert_allclose(sigmoid, [[0.7310586, 0.880797, 1]], rtol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 5.0, -5.0, 15.0])
def test_logits_that_float32_cannot_tell_apart(logit):
    """Two logits further apart than twice this have different probabilities."""
    step = selection.rounding_of_probability(logit)
    both = np.array([logit, logit + 2 * step], np.float64)
    a, b = (1 / (1 + np.exp(-both))).astype(np.float32)
    assert a < b
    assert selection.rounding_of_probability(15.0) > 0.1
