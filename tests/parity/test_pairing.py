"""Detections pair if their labels are equal, and box, score and mask within tolerance."""

import numpy as np
import pytest

from maskrcnn_jax.parity import pairing
from tests.parity.simulation import FAR, config, simulate

SCORES = [0.9, 0.8, 0.7]


@pytest.fixture
def outcome():
    return simulate(config(), FAR[:3], SCORES)


def test_an_outcome_pairs_with_itself_in_any_order(outcome):
    names = ("labels", "scores", "original_boxes", "masks")
    turned = outcome._replace(**{name: getattr(outcome, name)[::-1] for name in names})
    found = pairing.pair(outcome, turned)
    assert found.pairs == [(0, 2), (1, 1), (2, 0)]
    assert found.theirs == found.ours == []
    assert found.box_error == found.score_error == found.mask_share == 0


@pytest.mark.parametrize(
    "name, small, large", [("original_boxes", 0.04, 0.06), ("scores", 9e-5, 2e-4)]
)
def test_tolerances_of_boxes_and_scores(outcome, name, small, large):
    for change, num_pairs in ((small, 3), (large, 2)):
        array = getattr(outcome, name).copy()
        array[1] += change
        found = pairing.pair(outcome, outcome._replace(**{name: array}))
        assert len(found.pairs) == num_pairs
        assert found.theirs == found.ours == ([] if num_pairs == 3 else [1])
    shifted = outcome._replace(scores=outcome.scores + np.float32(5e-5))
    assert pairing.pair(outcome, shifted).score_error > 4e-5


def test_labels_must_be_equal(outcome):
    found = pairing.pair(outcome, outcome._replace(labels=np.array([1, 2, 1])))
    assert found.theirs == found.ours == [1]


def test_masks_may_differ_in_few_of_the_pixels_they_reach(outcome):
    masks = np.zeros((3, 320, 320), np.float32)
    masks[:, :50, :40] = 0.5  # 2000 pixels.
    theirs = outcome._replace(masks=masks)
    for count, num_pairs in ((2, 3), (3, 2)):
        changed = masks.copy()
        changed[0, 0, :count] += 0.002
        found = pairing.pair(theirs, theirs._replace(masks=changed))
        assert len(found.pairs) == num_pairs
    assert len(pairing.pair(theirs, theirs._replace(masks=masks + np.float32(9e-4))).pairs) == 3


def test_pixels_inside_one_mask_only(outcome):
    masks = np.zeros((3, 320, 320), np.float32)
    masks[:, :50, :40] = 0.5004
    theirs = outcome._replace(masks=masks)
    changed = masks.copy()
    changed[1, 0, :5] = 0.4999  # Within the tolerance of probabilities.
    found = pairing.pair(theirs, theirs._replace(masks=changed))
    assert len(found.pairs) == 3 and (found.num_pixels, found.num_differing) == (6000, 5)


def test_without_masks_the_rest_decides():
    outcome = simulate(config(has_masks=False), FAR[:3], SCORES)
    found = pairing.pair(outcome, outcome._replace(scores=outcome.scores + np.float32([0, 0, 1])))
    assert found.pairs == [(0, 0), (1, 1)] and found.theirs == found.ours == [2]
    assert found.mask_share is None


def test_each_detection_has_one_partner(outcome):
    same = np.zeros(3, np.float32)
    boxes = np.tile(FAR[0], (3, 1)).astype(np.float32)
    theirs = outcome._replace(original_boxes=boxes, scores=same)
    names = ("labels", "scores", "original_boxes", "masks")
    ours = theirs._replace(**{name: getattr(theirs, name)[:2] for name in names})
    found = pairing.pair(theirs, ours)
    assert found.pairs == [(0, 0), (1, 1)] and found.theirs == [2]


def test_nothing_pairs_with_nothing(outcome):
    empty = simulate(config(), FAR[:3], [0.01, 0.01, 0.01])
    assert pairing.pair(empty, empty).pairs == []
    assert pairing.pair(outcome, empty).theirs == [0, 1, 2]
    assert pairing.pair(empty, outcome).ours == [0, 1, 2]
