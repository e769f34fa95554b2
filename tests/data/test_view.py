"""The random and the fixed parts of the view of an image."""

import numpy as np
import pytest

from maskrcnn_jax import resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import masks, pipeline, schedule, view
from maskrcnn_jax.data.shapes import ShapesDataset
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
    np.testing.assert_array_equal(sample.image, resizing.resize_rounded(part, (50, 50)))
    assert sample.image_id == 7 and sample.classes.tolist() == [1]


def test_a_view_of_an_evaluation_is_the_whole_image_by_the_exact_rule():
    example = objects.make_example([objects.disc(60, 80, 30, 40, 25)])
    example.boxes[0, 2] = 90  # The box exceeds the image.
    sample = view.eval_view(example, DataConfig(test_short_side=90, test_max_long_side=200))
    np.testing.assert_array_equal(sample.image, resizing.resize(example.image, (90, 120)))
    np.testing.assert_array_equal(sample.boxes, [[22.5, 7.5, 97.5, 82.5]])


def jittered(seed, size=(30, 40), **settings):
    """The sample of an image with a disc, and what a generator of this seed draws for it."""
    example = objects.make_example([objects.disc(*size, min(14, size[0] - 1), 22, 9)])
    config = DataConfig(jitter_side=32, **({"jitter": (0.1, 2.0)} | settings))
    sample = view.train_view(np.random.default_rng(seed), example, config)
    random = np.random.default_rng(seed)
    return sample, example, random.uniform(*config.jitter), random.random()


@pytest.mark.parametrize("seed", range(8))
def test_jitter_resizes_crops_and_pads_as_detectron2(seed):
    sample, example, factor, place = jittered(seed)
    size = np.array(example.image.shape[:2])
    # ResizeScale.
    scale = np.minimum(*np.multiply((32, 32), factor) / size)
    resized = tuple(np.round(np.multiply(size, scale)).astype(int).tolist())
    expected = resizing.resize_rounded(example.image, resized)
    # FixedSizeCrop.
    excess = np.maximum(np.subtract(resized, 32), 0)
    top, left = np.round(excess * place).astype(int)
    expected = expected[top : top + 32, left : left + 32]
    assert sample.image.shape == (32, 32, 3)
    height, width = expected.shape[:2]
    np.testing.assert_array_equal(sample.image[:height, :width], expected)
    assert (sample.image[height:] == 128).all() and (sample.image[:, width:] == 128).all()


@pytest.mark.parametrize("seed", range(8))
def test_jitter_truncates_sizes_and_offsets_as_torchvision(seed):
    sample, example, factor, place = jittered(
        seed, jitter_rule="torchvision", jitter_fill=(0.2, 0.4, 0.6)
    )
    # ScaleJitter.
    scale = min(32 / 30, 32 / 40) * factor
    resized = int(30 * scale), int(40 * scale)
    expected = resizing.resize_rounded(example.image, resized)
    # FixedSizeCrop.
    top, left = (int(max(side - 32, 0) * place) for side in resized)
    expected = expected[top : top + 32, left : left + 32]
    height, width = expected.shape[:2]
    np.testing.assert_array_equal(sample.image[:height, :width], expected)
    for padding in (sample.image[height:], sample.image[:, width:]):
        assert (padding == [51, 102, 153]).all()


def test_jitter_leaves_a_row_of_a_long_image():
    for rule in ("detectron2", "torchvision"):
        sample, *_ = jittered(0, (20, 200), jitter=(0.1, 0.1), jitter_rule=rule)
        assert (sample.image[0, :3] != 128).any() and (sample.image[1:] == 128).all()


def test_a_range_of_short_sides_is_a_tuple_of_all_of_them():
    example = objects.make_example([objects.disc(60, 80, 30, 40, 25)])
    config = DataConfig(short_sides=tuple(range(30, 41)), max_long_side=100)
    views = [view.train_view(np.random.default_rng(seed), example, config) for seed in range(150)]
    assert {sample.image.shape[0] for sample in views} == set(range(30, 41))


def test_jitter_shows_large_parts_and_small_wholes():
    samples = [jittered(seed) for seed in range(60)]
    is_padded = [(x[0].image[-1] == 128).all() for x in samples]
    assert 10 < sum(is_padded) < 50
    for sample, _, factor, _ in samples:
        for box, mask in zip(sample.boxes, sample.masks, strict=True):
            bitmap = masks.to_bitmap(mask, (32, 32))
            assert bitmap.any() and abs(objects.tight(bitmap) - box).max() <= 2 * max(factor, 1)
    # A disc at the border of the image may be out of sight, a whole image never is.
    assert all(len(x[0].boxes) == 1 for x in samples if x[2] <= 1)


def test_jittered_images_need_a_bucket_for_the_square():
    dataset = ShapesDataset(3, 64, seed=0)
    config = DataConfig(jitter=(0.1, 2.0), jitter_side=32, buckets=((32, 32),))
    (members,) = schedule.train_members(dataset, config)
    assert members.tolist() == [0, 1, 2]
    batches = pipeline.train_batches(dataset, config, batch_size=2, seed=0)
    batch = next(batches)
    batches.close()
    assert batch.images.shape == (2, 32, 32, 3) and batch.sizes.tolist() == [[32, 32]] * 2
    config.jitter_side = 33
    with pytest.raises(ValueError, match="33x33 after resizing, fits none of"):
        schedule.train_members(dataset, config)
