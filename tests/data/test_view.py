"""The random and the fixed parts of the view of an image."""

import numpy as np

from maskrcnn_jax import resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import view
from tests.data import objects


def test_windows_reach_every_corner_and_stay_inside():
    config = DataConfig(crop_size=8)
    windows = [view.draw(np.random.default_rng(seed), (10, 9), config)[0] for seed in range(200)]
    assert {(window.top, window.left) for window in windows} == {
        (top, left) for top in range(3) for left in range(2)
    }
    assert all(window[2:] == (8, 8) for window in windows)


def test_only_sides_longer_than_the_crop_are_cut():
    rng = np.random.default_rng(0)
    assert view.draw(rng, (10, 50), DataConfig(crop_size=20))[0][::2] == (0, 10)
    assert view.draw(rng, (10, 50), DataConfig())[0] == (0, 0, 10, 50)


def test_a_crop_size_leaves_the_short_sides_as_they_were():
    plain = DataConfig(short_sides=(10, 20, 30))
    cropped = DataConfig(short_sides=(10, 20, 30), crop_size=20)
    sides = [view.draw(np.random.default_rng(seed), (50, 60), plain)[1] for seed in range(40)]
    assert set(sides) == {10, 20, 30}
    assert sides == [
        view.draw(np.random.default_rng(seed), (50, 60), cropped)[1] for seed in range(40)
    ]


def test_a_view_of_training_is_the_window_resized():
    example = objects.make_example([objects.disc(60, 80, 30, 40, 25)])
    config = DataConfig(short_sides=(50,), crop_size=40, max_long_side=100)
    sample = view.train_view(np.random.default_rng(3), example, config)
    (top, left, height, width), short_side = view.draw(np.random.default_rng(3), (60, 80), config)
    assert (height, width, short_side) == (40, 40, 50)
    part = example.image[top : top + 40, left : left + 40]
    np.testing.assert_array_equal(sample.image, resizing.resize_uint8(part, (50, 50)))
    assert sample.image_id == 7 and sample.classes.tolist() == [1]


def test_a_view_of_an_evaluation_is_the_whole_image_by_the_exact_rule():
    example = objects.make_example([objects.disc(60, 80, 30, 40, 25)])
    example.boxes[0, 2] = 90  # The box exceeds the image.
    sample = view.eval_view(example, DataConfig(test_short_side=90, test_max_long_side=200))
    np.testing.assert_array_equal(sample.image, resizing.resize(example.image, (90, 120)))
    np.testing.assert_array_equal(sample.boxes, [[22.5, 7.5, 97.5, 82.5]])
