"""Crops, resizes and flips of images with their objects."""

import numpy as np
import pytest

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import masks, rle
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.pack import pack
from maskrcnn_jax.data.sample import Window
from tests.data import objects


def cropped(example, *window):
    return samples.crop(samples.whole(example), Window(*window))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("as_polygons", [False, True])
def test_boxes_in_a_window_equal_those_of_the_cut_masks(seed, as_polygons):
    rng = np.random.default_rng(seed)
    circles = [(*rng.uniform(0, [60, 80]), rng.uniform(4, 25)) for _ in range(12)]
    polygons = [objects.polygon_of_disc(*circle) for circle in circles]
    bitmaps = [rle.decode(polygon, 60, 80).astype(bool) for polygon in polygons]
    example = objects.make_example(bitmaps, polygons if as_polygons else None)
    sample = cropped(example, 13, 21, 30, 40)
    shown = [bitmap[13:43, 21:61] for bitmap in bitmaps]
    assert sample.classes.tolist() == [i for i, part in enumerate(shown, start=1) if part.any()]
    expected = [objects.tight(part) for part in shown if part.any()]
    np.testing.assert_array_equal(sample.boxes, expected)
    np.testing.assert_array_equal(sample.image, example.image[13:43, 21:61])
    assert 0 < len(sample.boxes) < 12


def test_an_object_inside_the_window_keeps_its_annotated_box():
    example = objects.make_example([objects.disc(40, 40, 20, 20, 8)])
    loose = example._replace(boxes=np.array([[10.25, 11.5, 29.75, 28.5]], np.float32))
    np.testing.assert_array_equal(cropped(loose, 5, 5, 30, 30).boxes, loose.boxes - 5)


def test_an_object_of_which_only_empty_parts_of_the_box_are_visible_is_dropped():
    triangle = np.tri(30, 30, dtype=bool)
    assert len(cropped(objects.make_example([triangle]), 0, 20, 8, 10).boxes) == 0


def test_a_sliver_of_less_than_a_pixel_is_dropped_where_the_window_cuts_and_kept_where_not():
    bitmap = np.zeros((30, 30), bool)
    bitmap[5:15, 10:21] = True
    wide = objects.make_example([bitmap])._replace(boxes=np.array([[10, 5, 20.5, 15]], np.float32))
    assert len(cropped(wide, 0, 20, 30, 10).boxes) == 0
    assert len(cropped(wide, 0, 19, 30, 10).boxes) == 1
    narrow = wide._replace(boxes=np.array([[20, 5, 20.5, 15]], np.float32))
    assert len(cropped(narrow, 0, 20, 30, 10).boxes) == 1


def test_the_box_of_an_object_without_a_mask_is_cut_off():
    example = objects.make_example([objects.disc(40, 40, 20, 20, 8)] * 2)._replace(
        masks=[None, None]
    )
    example.boxes[1] = [0, 0, 9.5, 40]
    sample = cropped(example, 10, 9, 20, 15)
    # Only half a pixel of the other object is visible, so it is dropped.
    np.testing.assert_array_equal(sample.boxes, [[3, 2, 15, 18]])
    assert sample.masks == [None]


def test_a_crop_after_a_resize_cuts_what_the_sample_shows():
    example = objects.make_example([objects.disc(40, 40, 20, 20, 10)])
    large = samples.resize(samples.whole(example), (80, 80))
    sample = samples.crop(large, Window(0, 30, 80, 50))
    np.testing.assert_array_equal(sample.boxes, [[0, 20, 30, 60]])
    whole = masks.to_bitmap(large.masks[0], (80, 80))
    np.testing.assert_array_equal(masks.to_bitmap(sample.masks[0], (80, 50)), whole[:, 30:])


def test_resize_scales_boxes_per_axis():
    bitmap = np.zeros((50, 60), bool)
    bitmap[20:30, 30:50] = True
    sample = samples.resize(cropped(objects.make_example([bitmap]), 10, 20, 40, 40), (80, 60))
    np.testing.assert_array_equal(sample.boxes, [[15, 20, 45, 40]])
    assert sample.image.shape == (80, 60, 3)


def test_select_takes_objects_in_the_order_asked_for():
    example = objects.make_example([objects.disc(40, 40, 20, 20, radius) for radius in (5, 8, 11)])
    sample = samples.select(samples.whole(example), [2, 0])
    assert sample.classes.tolist() == [3, 1]
    np.testing.assert_array_equal(sample.boxes, example.boxes[[2, 0]])
    assert [mask.annotation for mask in sample.masks] == [example.masks[2], example.masks[0]]


@pytest.mark.parametrize("mask_store", ["crop", "full"])
@pytest.mark.parametrize(
    "axis, flip", [(0, samples.flip_vertically), (1, samples.flip_horizontally)]
)
def test_flips_turn_image_boxes_and_masks_alike(axis, flip, mask_store):
    bitmap = objects.disc(40, 50, 12, 30, 9)
    bitmap[12:, 30:] = False
    example = objects.make_example([bitmap])
    turned = objects.make_example([np.flip(bitmap, axis)])._replace(
        image=np.flip(example.image, axis)
    )
    config = DataConfig(mask_size=28, mask_store=mask_store)
    flipped = flip(samples.whole(example))
    ours, theirs = (pack(sample, (64, 64), config) for sample in (flipped, samples.whole(turned)))
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.instances.boxes, theirs.instances.boxes)
    np.testing.assert_allclose(
        *(row.instances.masks.values.astype(int) for row in (ours, theirs)), atol=1
    )
    twice = flip(flipped)
    np.testing.assert_array_equal(twice.image, example.image)
    np.testing.assert_array_equal(twice.boxes, example.boxes)
    assert twice.masks == samples.whole(example).masks


@pytest.mark.parametrize("mask_store", ["crop", "full"])
@pytest.mark.parametrize("quarters", range(-1, 5))
def test_quarter_turns_turn_image_boxes_and_masks_alike(quarters, mask_store):
    bitmap = objects.disc(40, 50, 12, 30, 9)
    bitmap[12:, 30:] = False
    example = objects.make_example([bitmap])
    expected = objects.make_example([np.rot90(bitmap, quarters)])._replace(
        image=np.rot90(example.image, quarters)
    )
    config = DataConfig(mask_size=28, mask_store=mask_store)
    turned = samples.turn(samples.whole(example), quarters)
    ours, theirs = (pack(sample, (64, 64), config) for sample in (turned, samples.whole(expected)))
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.instances.boxes, theirs.instances.boxes)
    np.testing.assert_allclose(
        *(row.instances.masks.values.astype(int) for row in (ours, theirs)), atol=1
    )


def test_objects_that_a_crop_removes_are_counted():
    bitmaps = [objects.disc(40, 50, 12, x, 5) for x in (10, 25, 40)]
    once = cropped(objects.make_example(bitmaps), 0, 18, 40, 32)
    twice = samples.crop(once, Window(0, 0, 40, 15))
    assert (once.num_removed, twice.num_removed) == (1, 2) and len(twice.boxes) == 1


@pytest.mark.parametrize("channels, dtype", [(1, np.uint8), (4, np.uint16), (13, np.float32)])
def test_padding_has_a_value_for_each_channel(channels, dtype):
    image = np.ones((2, 3, channels), dtype)
    sample = cropped(objects.make_example([np.ones((2, 3), bool)]), 0, 0, 2, 3)
    values = np.arange(10.0, 10 + channels)
    padded = samples.pad(sample._replace(image=image), (4, 5), values).image
    assert padded.dtype == dtype and (padded[:2, :3] == 1).all()
    assert (padded[2:] == values).all() and (padded[:, 3:] == values).all()
    assert (samples.pad(sample, (4, 5), 7).image[2:] == 7).all()


def test_an_image_without_objects_goes_through_everything():
    nothing = objects.make_example([objects.disc(40, 50, 12, 30, 9)])
    nothing = nothing._replace(boxes=nothing.boxes[:0], classes=nothing.classes[:0], masks=[])
    sample = samples.resize(cropped(nothing, 3, 4, 30, 40), (60, 80))
    sample = samples.flip_horizontally(samples.flip_vertically(sample))
    assert sample.boxes.shape == (0, 4) and sample.image.shape == (60, 80, 3) and sample.masks == []
