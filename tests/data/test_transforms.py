"""The order of transforms, and their random draws."""

import numpy as np
import pytest

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import colours, masks, transforms
from maskrcnn_jax.data import sample as samples
from tests.data import objects


def sample():
    return samples.whole(objects.make_example([objects.disc(40, 50, 12, 30, 9)]))


def test_flips_follow_their_probabilities():
    given = sample()
    stages = transforms.standard(DataConfig(horizontal_flip=0.5, vertical_flip=0.1))
    horizontal = vertical = 0
    for seed in range(400):
        mask = transforms.apply(stages, (seed,), given).masks[0]
        horizontal += mask.columns.mirrored
        vertical += mask.rows.mirrored
    assert 160 < horizontal < 240 and 15 < vertical < 70
    assert list(stages) == ["horizontal_flip", "vertical_flip"]


def test_each_has_a_generator_of_its_own_that_depends_on_the_seed_and_its_name():
    drawn = {}

    def record(name):
        def transform(rng, sample):
            drawn.setdefault(name, []).append(rng.random())
            return sample

        return transform

    stages = {name: record(name) for name in ("a", "b", "c")}
    transforms.apply(stages, (1, 2), sample())
    # The order differs, and one transform is missing.
    transforms.apply({"c": stages["c"], "a": stages["a"]}, (1, 2), sample())
    transforms.apply(stages, (1, 3), sample())
    assert drawn["a"][0] == drawn["a"][1] and drawn["c"][0] == drawn["c"][1]
    assert len({*drawn["a"], *drawn["b"], *drawn["c"]}) == 6


def test_transforms_come_in_their_order():
    seen = []
    stages = {
        name: lambda rng, sample, name=name: seen.append(name) or sample for name in ("z", "a", "m")
    }
    transforms.apply(stages, (0,), sample())
    assert seen == ["z", "a", "m"]


def test_what_a_config_turns_off_is_left_out_and_the_rest_has_its_order():
    assert list(transforms.standard(DataConfig())) == ["horizontal_flip", "vertical_flip"]
    every = DataConfig(crop_fraction=(0.5, 1.0), quarter_turn=0.1, copy_paste=0.1, distortion=0.1)
    assert list(transforms.standard(every, [None])) == [
        *("crop", "horizontal_flip", "vertical_flip", "quarter_turn", "copy_paste", "distort"),
    ]
    with pytest.raises(ValueError, match="data.copy_paste needs the data set to paste from"):
        transforms.standard(every)


def test_the_other_image_of_copy_paste_gets_its_own_view_flips_and_turns():
    given, config = objects.make_example([objects.disc(40, 40, 10, 12, 6)]), {}
    config |= {"short_sides": (40, 50, 60), "buckets": ((64, 64),), "vertical_flip": 0.5}
    config |= {"copy_paste": 1.0, "quarter_turn": 0.5}
    stages = transforms.standard(DataConfig(**config), [given])
    stages = {name: stages[name] for name in ("copy_paste",)}
    empty = samples.pad(samples.select(samples.whole(given), []), (60, 60), 0)
    boxes = [transforms.apply(stages, (seed,), empty).boxes[0] for seed in range(40)]
    corners = {(box[0] < 30, box[1] < 30) for box in boxes}
    widths = np.array([[box[2] - box[0]] for box in boxes])
    sizes = abs(widths - [12, 15, 18]) <= 1
    assert len(corners) == 4 and sizes.any(0).all() and sizes.any(1).all()


@pytest.mark.parametrize("fractions", [(0.2, 0.5), (0.9, 0.9), (1, 1)])
def test_a_crop_keeps_an_object_and_has_sides_of_its_fractions(fractions):
    bitmaps = [objects.disc(40, 50, 12, 30, 9), objects.disc(40, 50, 35, 6, 4)]
    given = samples.whole(objects.make_example(bitmaps))
    windows = set()
    for seed in range(60):
        result = transforms.crop(np.random.default_rng(seed), given, fractions)
        low, high = (np.floor(np.array([40, 50]) * x + 0.5) for x in fractions)
        assert (low <= result.image.shape[:2]).all() and (result.image.shape[:2] <= high).all()
        assert len(result.boxes) + result.num_removed == 2 and len(result.boxes)
        windows.add(result.image.tobytes())
        # The one that was drawn is whole, unless the window is smaller.
        whole = {1: 18, 2: 8}
        sides = result.boxes[:, 2:] - result.boxes[:, :2]
        fits = np.minimum(result.image.shape[1::-1], [[whole[i]] for i in result.classes.tolist()])
        assert (sides >= fits).all(1).any()
    assert len(windows) == 1 if fractions == (1, 1) else len(windows) > 10


def test_a_crop_without_objects_reaches_all_corners():
    given = samples.select(sample(), [])
    results = [
        transforms.crop(np.random.default_rng(seed), given, (0.9, 0.9)) for seed in range(400)
    ]
    first = {tuple(result.image[0, 0]) for result in results}
    assert first == {tuple(given.image[y, x]) for y in range(5) for x in range(6)}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_a_crop_of_an_image_of_a_few_pixels_has_a_pixel(size):
    given = samples.whole(objects.make_example([np.ones(size, bool)]))
    result = transforms.crop(np.random.default_rng(0), given, (0.01, 0.01))
    assert result.image.shape == (1, 1, 3) and len(result.boxes) == 1


def test_quarter_turns_are_equally_likely_and_turn_everything():
    bitmap, counts = objects.disc(40, 50, 12, 30, 9), np.zeros(4, int)
    bitmap[12:, 30:] = False
    for given in ([], [objects.polygon_of_disc(12, 30, 9)]):
        given = samples.whole(objects.make_example([bitmap], given))
        for seed in range(200):
            result = transforms.quarter_turn(np.random.default_rng(seed), given, 0.75)
            turned = [np.rot90(given.image, k) for k in range(4)]
            k = [np.array_equal(result.image, image) for image in turned].index(True)
            counts[k] += 1
            expected = np.rot90(masks.to_bitmap(given.masks[0], (40, 50)), k)
            found = masks.to_bitmap(result.masks[0], result.image.shape[:2])
            assert objects.iou(found > 0, expected > 0) > 0.93
            assert abs(result.boxes[0] - objects.tight(np.rot90(bitmap, k))).max() < 1e-9
    assert counts.min() > 70


def test_changes_of_colours_have_their_probability_and_their_ranges(monkeypatch):
    calls = []
    for name in colours.CHANGES:

        def record(image, value, name=name):
            calls.append((name, value))
            return image

        monkeypatch.setitem(colours.CHANGES, name, record)
    config = DataConfig(distortion=0.5)
    orders = set()
    for seed in range(300):
        before = len(calls)
        transforms.distort(np.random.default_rng(seed), sample(), config)
        orders.add(tuple(name for name, _ in calls[before:]))
    for name in colours.CHANGES:
        values = [value for found, value in calls if found == name]
        low, high = getattr(config, name)
        assert 110 < len(values) < 190 and low <= min(values) and max(values) <= high
        assert max(values) - min(values) > 0.9 * (high - low)
    # Contrast comes before saturation and hue, or after both.
    assert ("brightness", "contrast", "saturation", "hue") in orders
    assert ("brightness", "saturation", "hue", "contrast") in orders
    assert not any(order[-3:] == ("saturation", "contrast", "hue") for order in orders)
    assert len(orders) == 16 + 6


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_other_channels_than_colours_keep_their_proportions(channels):
    image = np.random.default_rng(0).integers(0, 200, (6, 7, channels), np.uint8)
    given = sample()._replace(image=image)
    result = transforms.distort(np.random.default_rng(1), given, DataConfig(distortion=1.0))
    assert result.image.shape == image.shape and result.image.dtype == np.uint8
    assert not np.array_equal(result.image, image)
