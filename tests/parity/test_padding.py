"""Arrays of an image in buckets and in slots, and back."""

import numpy as np

from maskrcnn_jax.parity import padding


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


def test_an_image_lies_at_the_upper_left():
    image = np.ones((2, 3, 4), np.float64)
    filled = padding.fill(image, (3, 5))
    assert filled.shape == (1, 3, 5, 4) and filled.dtype == np.float32
    assert filled.sum() == image.sum() and filled[0, :2, :3].all()


def test_maps_round_up():
    """P6 of a map with 3 rows has the rows 0 and 2."""
    assert [padding.cells((96, 64), level) for level in (2, 5, 6)] == [(24, 16), (3, 2), (2, 1)]


def test_slots_keep_the_type():
    assert padding.slots(np.ones(2, bool), 3).tolist() == [[True, True, False]]
    assert padding.slots(np.zeros((0, 4), np.int64), 2).shape == (1, 2, 4)
