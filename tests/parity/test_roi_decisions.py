"""Decisions about an RoI that rounding can change, and their margins."""

import numpy as np
import pytest

from maskrcnn_jax.parity import roi_decisions
from maskrcnn_jax.parity.selection import Side
from tests.parity.simulation import FAR, config, simulate


def box(*values):
    return np.array(values, np.float32)


def side_of(**changes):
    """A side whose rules of RoIs are changed."""
    settings = config()
    for name, value in changes.items():
        setattr(settings.model.roi, name, value)
    return Side("ours", simulate(settings, FAR[:1], [0.9]), settings)


def why(one, other, **changes):
    return roi_decisions.why_pooled_otherwise(one, other, side_of(**changes), resolution=7)


def test_equal_rois_need_no_reason():
    assert why(box(10, 10, 60, 60), box(10, 10, 60.001, 60)) == ()


@pytest.mark.parametrize("side, boundary", [(112, 3), (224, 4), (448, 5)])
def test_the_boundary_between_two_levels(side, boundary):
    (step,) = why(box(0, 0, side - 1, side), box(0, 0, side, side))
    assert f"boundary {boundary}" in step.text
    expected = -np.log2(np.sqrt(1 - 1 / side))
    assert step.margin == pytest.approx(expected, rel=1e-3)
    assert step.tolerance == roi_decisions.LEVEL_TOLERANCE


@pytest.mark.parametrize(
    "side, levels, level",
    [
        (5, (2, 3, 4, 5), 2),
        (111, (2, 3, 4, 5), 2),
        (113, (2, 3, 4, 5), 3),
        (2000, (2, 3, 4, 5), 5),
        (113, (4,), 4),
        (-9, (2, 3, 4, 5), 2),
    ],
)
def test_no_roi_is_beyond_the_levels_of_the_model(side, levels, level):
    assert roi_decisions._level(
        box(0, 0, side, 9 if side < 0 else side), "torchvision", levels
    ) == (level)


def test_the_number_of_samples_follows_the_size():
    """A bin of two cells has two samples, and a larger one has three."""
    rules = {"sampling_ratio": 0, "aligned": True, "level_rule": "detectron2"}
    (step,) = why(box(10, 10, 66, 40), box(10, 10, 66.7, 40), **rules)
    assert step.text == "2 and 3 samples in each bin of its RoI"
    assert step.margin == pytest.approx(0.7 / 4, rel=1e-3)
    # Without "aligned" an RoI has at least one cell, so smaller ones have equal samples.
    rules["aligned"] = False
    assert why(box(10, 10, 11, 40), box(10, 10, 13.9, 40), **rules) == ()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_sample_beyond_the_map(axis):
    """The canvas has 320 pixels, 80 cells of P2; the last sample of 14 lies at 27/28."""
    one, other = box(10, 10, 60, 60), box(10, 10, 60, 60)
    for each, gap in ((one, -0.04), (other, 0.04)):
        each[[axis, axis + 2]] = 320 - 4 * 27 / 28 + gap, 319
    (step,) = why(one, other)
    assert "cells from the border" in step.text and step.margin == pytest.approx(0.01, rel=0.02)


def test_a_mask_is_pasted_from_whole_pixels():
    one, other = box(12.01, 12, 68, 68), box(11.99, 12, 68, 68)
    (step,) = roi_decisions.why_pasted_otherwise(one, other)
    assert "truncated to whole pixels" in step.text and step.margin < 0.02
    assert roi_decisions.why_pasted_otherwise(one, one) == ()
    # Both corners lie between 3 and 4, so nothing differs.
    one, other = box(5.1, 12, 33, 68), box(5.4, 12, 33, 68)
    assert roi_decisions.why_pasted_otherwise(one, other) == ()


def drawn(x1, values):
    mask = np.zeros((20, 20), np.float32)
    mask[3:10, 3:10] = values
    return np.array([4, 4, x1, 9], np.float64), mask


def test_masks_that_differ_beyond_the_end_of_a_window():
    one, other = drawn(9.0, 0.7), drawn(9.001, 0.7)
    other[1][3:10, 10] = 0.4
    (step,) = roi_decisions.why_drawn_beyond(one, other)
    assert "rounded to whole pixels" in step.text
    assert step.margin == pytest.approx(0.001, rel=1e-3)
    other[1][3:10, 3:10] = 0.4  # Now they differ in the window, too.
    assert roi_decisions.why_drawn_beyond(one, other) == ()
    assert roi_decisions.why_drawn_beyond(drawn(8.2, 0.7), drawn(8.4, 0.4)) == ()
