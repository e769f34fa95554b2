"""A comparison pads, crops, measures and batches correctly."""

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.parity import comparison, padding


def test_images_of_one_orientation_travel_together_with_others_of_another_size():
    sizes = [(8, 12), (12, 8), (8, 9), (8, 8), (9, 8)]
    assert comparison.by_orientation(sizes) == [[3, 2, 0], [4, 1]]
    assert comparison.by_orientation(sizes[:1]) == [[0]]
    assert comparison.batches([3, 2, 0], 2) == [[3, 0], [2]]
    assert comparison.batches([5, 6, 7, 8], 2) == [[5, 7], [6, 8]]


def test_relative_error():
    theirs = np.array([1.0, -4.0], np.float32)
    assert comparison.relative_error(theirs, theirs + np.array([0, 0.5], np.float32)) == 0.125
    assert comparison.relative_error(theirs[:0], theirs[:0]) == 0
    assert np.isnan(comparison.relative_error(theirs, theirs * np.float32(np.nan)))
    with pytest.raises(ValueError, match="one shape"):
        comparison.relative_error(theirs, theirs[:1])


def test_every_stage_is_reported_in_order():
    names = list(comparison.make_stages(ModelConfig()))
    by_unit = comparison.TOLERANCES, comparison.PIXEL_TOLERANCES, comparison.PROBABILITY_TOLERANCES
    assert sorted(names) == sorted(name for tolerances in by_unit for name in tolerances)
    assert names[-len(comparison.ORDER) :] == comparison.ORDER
    faster = list(comparison.make_stages(ModelConfig(mask_head=None)))
    assert faster == names[:-3] and not any("mask" in name for name in faster)
    c4 = list(comparison.make_stages(presets.detectron2_r50_c4().model))
    assert c4[:4] == ["preprocessed image", "C4", "P4", "objectness P4"] and c4[-5:] == names[-5:]


def test_anchors_of_a_canvas_among_those_of_a_bucket():
    canvas, bucket = (96, 64), (128, 160)
    random = np.random.default_rng(0)
    counts = {5: 3 * 2 * 3, 6: 2 * 1 * 3}
    levels = {level: random.random((n, 4), np.float32) for level, n in counts.items()}
    filled = padding.fill_anchors(levels, canvas, bucket)
    assert filled[5].shape == (1, 4 * 5 * 3, 4) and filled[6].shape == (1, 2 * 3 * 3, 4)
    # The anchor at row 1, column 1, ratio 2 of the canvas moves to the same place in the bucket.
    np.testing.assert_array_equal(filled[5][0, 2 * 4 * 5 + 5 + 1], levels[5][(1 * 2 + 1) * 3 + 2])
    np.testing.assert_array_equal(filled[5][0, 2:5], 0)
    cropped = padding.crop_anchors({level: x[0] for level, x in filled.items()}, canvas, bucket)
    for level, array in levels.items():
        np.testing.assert_array_equal(cropped[level], array)


def test_maps_and_slots():
    array = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    filled = padding.fill_levels({5: array}, (128, 160))
    assert filled[5].shape == (1, 4, 5, 2)
    np.testing.assert_array_equal(padding.crop_levels({5: filled[5][0]}, (96, 64))[5], array)
    slots = padding.slots(array, 5)
    np.testing.assert_array_equal(slots[0, :3], array)
    assert slots.shape == (1, 5, 2, 2) and not slots[0, 3:].any()
