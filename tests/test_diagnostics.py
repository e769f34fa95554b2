"""Counts and accuracies, by hand and against loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import diagnostics
from maskrcnn_jax.losses import mean
from maskrcnn_jax.structures import AnchorTargets, RoITargets


def anchor_targets(positive, valid):
    positive, valid = jnp.array(positive, bool), jnp.array(valid, bool)
    return AnchorTargets(jnp.zeros(valid.shape, int), positive, jnp.zeros((*valid.shape, 4)), valid)


def roi_targets(classes, valid):
    classes, valid = jnp.array(classes), jnp.array(valid, bool)
    nothing = jnp.zeros((*valid.shape, 4))
    return RoITargets(nothing, classes, nothing, jnp.zeros(valid.shape, int), classes > 0, valid)


def as_floats(pairs):
    return {name: tuple(map(float, pair)) for name, pair in pairs.items()}


# Two images with four slots: three used, then two.
ROIS = roi_targets([[2, 1, 0, 0], [3, 0, 0, 0]], [[1, 1, 1, 0], [1, 1, 0, 0]])


def test_counts_are_per_image_and_leave_empty_slots_out():
    anchors = anchor_targets([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    expected = {
        "positive_anchors": (3, 2),
        "negative_anchors": (6, 2),
        "positive_rois": (3, 2),
        "negative_rois": (2, 2),
        "surplus_instances": (7, 2),
        "missing_images": (0, 2),
    }
    surplus, removed = jnp.array([0, 7]), jnp.array([4, 1])
    assert as_floats(diagnostics.sample_counts(anchors, ROIS, surplus)) == expected
    found = diagnostics.sample_counts(anchors, ROIS, surplus, removed)
    assert as_floats(found) == expected | {"removed_instances": (5, 2)}


def test_classes_by_hand():
    """One of three objects is right, and one is missed; one of two backgrounds is right."""
    found = jnp.array([[2, 3, 0, 0], [0, 1, 0, 0]])
    logits = 5.0 * (jnp.expand_dims(found, 2) == jnp.arange(4).reshape(1, 1, 4))
    assert as_floats(diagnostics.box_accuracy(logits, ROIS)) == {
        "classification_accuracy": (2, 5),
        "foreground_accuracy": (1, 3),
        "false_negatives": (1, 3),
    }


def test_without_a_probability_above_a_half_there_is_no_object():
    """Background's own logit is not read. Objects 2, 1 and 3 get 2, none and 1."""
    found = jnp.array([[2, 0, 0, 0], [1, 0, 1, 0]])
    is_found = jnp.expand_dims(found, 2) == jnp.arange(4).reshape(1, 1, 4)
    logits = jnp.where(is_found, 5.0, -5.0).at[..., 0].set(9.0)
    targets = roi_targets([[2, 1, 0, 0], [3, 0, 0, 0]], np.ones((2, 4)))
    assert as_floats(diagnostics.box_accuracy(logits, targets, "sigmoid")) == {
        "classification_accuracy": (5, 8),
        "foreground_accuracy": (1, 3),
        "false_negatives": (1, 3),
    }


def test_masks_by_hand():
    """The mask misses half of the first object and has one surplus cell in the second, empty one.

    The background RoI predicts all cells inside and does not count.
    """
    targets = roi_targets([[2, 1, 0]], [[1, 1, 1]])
    masks = jnp.array(
        [[[1.0, 0.2], [0.5, 0.49]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    )
    logits = jnp.full((1, 3, 2, 2), 9.0)
    # A logit of 0 is a probability of 0.5.
    logits = logits.at[0, 0].set(jnp.array([[3.0, -3.0], [0.0, -3.0]]))
    logits = logits.at[0, 1].set(jnp.array([[-3.0, -3.0], [-3.0, 0.1]]))
    assert as_floats(diagnostics.mask_accuracy(logits, jnp.expand_dims(masks, 0), targets)) == {
        "mask_accuracy": (6, 8),
        "mask_false_positives": (1, 6),
        "mask_false_negatives": (1, 2),
    }


def mask_accuracy_by_loops(logits, masks, targets):
    outcomes = {(inside, found): 0 for inside in (False, True) for found in (False, True)}
    for b, r, y, x in np.ndindex(masks.shape):
        if targets.positive[b, r]:
            outcomes[masks[b, r, y, x] >= 0.5, logits[b, r, y, x] > 0] += 1
    outside, inside = (outcomes[side, False] + outcomes[side, True] for side in (False, True))
    return {
        "mask_accuracy": (outcomes[True, True] + outcomes[False, False], inside + outside),
        "mask_false_positives": (outcomes[False, True], outside),
        "mask_false_negatives": (outcomes[True, False], inside),
    }


@pytest.mark.parametrize("seed", range(3))
def test_masks_equal_loops(seed):
    rng = np.random.default_rng(seed)
    targets = roi_targets(rng.integers(0, 4, (2, 5)), np.ones((2, 5)))
    logits = rng.normal(size=(2, 5, 3, 3)).astype(np.float32)
    masks = rng.uniform(size=(2, 5, 3, 3)).astype(np.float32)
    found = diagnostics.mask_accuracy(jnp.asarray(logits), jnp.asarray(masks), targets)
    assert as_floats(found) == mask_accuracy_by_loops(logits, masks, targets)


def test_nothing_to_count_is_zero_and_finite():
    targets = roi_targets([[0, 0]], [[0, 0]])
    found = diagnostics.box_accuracy(jnp.zeros((1, 2, 3)), targets)
    found |= diagnostics.mask_accuracy(jnp.ones((1, 2, 2, 2)), jnp.zeros((1, 2, 2, 2)), targets)
    assert all(pair == (0, 0) for pair in as_floats(found).values())
    assert all(mean(pair) == 0 for pair in found.values())
