import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn_jax import images
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import augmentation, coco
from maskrcnn_jax.data.augmentation import Sample, Window
from maskrcnn_jax.data.coco import Example


def _rle(bitmap):
    encoded = coco_mask.encode(np.asfortranarray(bitmap, np.uint8))
    return {"size": list(bitmap.shape), "counts": encoded["counts"].decode()}


def _disc(height, width, y, x, radius):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def _polygon_of_disc(y, x, radius):
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return [np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).ravel().tolist()]


def _tight(bitmap):
    rows, columns = np.nonzero(bitmap)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def _example(bitmaps, polygons=None):
    height, width = bitmaps[0].shape
    rng = np.random.default_rng(0)
    return Example(
        image=rng.integers(0, 256, (height, width, 3), np.uint8),
        image_id=7,
        boxes=np.array([_tight(bitmap) for bitmap in bitmaps], np.float32).reshape(-1, 4),
        classes=np.arange(1, len(bitmaps) + 1, dtype=np.int32),
        masks=polygons or [_rle(bitmap) for bitmap in bitmaps],
    )


def _paste(crop, box, height, width):
    """Reads the crop at the centre of each pixel, by the nearest cell."""
    pasted = np.zeros((height, width), bool)
    x0, y0, x1, y1 = box
    for row in range(height):
        for column in range(width):
            v, u = (row + 0.5 - y0) / (y1 - y0), (column + 0.5 - x0) / (x1 - x0)
            if 0 <= v < 1 and 0 <= u < 1:
                pasted[row, column] = crop[int(v * len(crop)), int(u * len(crop))] >= 128
    return pasted


def _iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("radius", [5, 17, 45])
def test_a_pasted_crop_gives_the_mask_back(radius):
    disc = _disc(100, 120, 50, 60, radius)
    for mask in (_rle(disc), _polygon_of_disc(50, 60, radius)):
        crop = augmentation.mask_crop(mask, _tight(disc), 112)
        assert crop.shape == (112, 112) and crop.dtype == np.uint8
        assert _iou(_paste(crop, _tight(disc), 100, 120), disc) > 0.95


def test_polygon_and_bitmap_of_one_object_agree():
    box = np.array([10.0, 15.0, 70.0, 75.0], np.float32)
    bitmap = augmentation.mask_crop(_rle(_disc(100, 120, 45, 40, 30)), box) >= 128
    polygon = augmentation.mask_crop(_polygon_of_disc(45, 40, 30), box) >= 128
    assert _iou(bitmap, polygon) > 0.97


def test_cells_of_a_crop_divide_the_box():
    # The box is 8 x 4 pixels, the object its left quarter and the lower half of the rest; each cell is 2 x 1 pixels.
    bitmap = np.zeros((20, 30), bool)
    bitmap[10:14, 5:7] = True
    bitmap[12:14, 7:13] = True
    box = np.array([5, 10, 13, 14], np.float32)
    expected = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]], bool)
    polygons = [[5.0, 10, 7, 10, 7, 14, 5, 14], [7.0, 12, 13, 12, 13, 14, 7, 14]]
    np.testing.assert_array_equal(augmentation.mask_crop(_rle(bitmap), box, 4) >= 128, expected)
    np.testing.assert_array_equal(augmentation.mask_crop(polygons, box, 4), expected * 255)


def test_a_shrunk_bitmap_is_antialiased():
    # Every cell of the crop covers 10 x 10 pixels, of which the columns are in the object by turns.
    stripes = np.zeros((60, 60), bool)
    stripes[:, ::2] = True
    crop = augmentation.mask_crop(_rle(stripes), np.array([0, 0, 60, 60], np.float32), 6)
    np.testing.assert_allclose(crop[:, 1:-1], 127.5, atol=8)


def test_a_crop_at_the_border_is_that_of_a_larger_image():
    disc = _disc(40, 40, 0, 38, 12)
    enlarged = np.pad(disc, ((20, 0), (0, 20)), mode="edge")
    box = np.array([26, 0, 40, 12], np.float32)
    crop = augmentation.mask_crop(_rle(disc), box, 28)
    beyond = augmentation.mask_crop(_rle(enlarged), box + np.float32([0, 20, 0, 20]), 28)
    np.testing.assert_allclose(crop.astype(int), beyond, atol=1)


def test_a_box_beyond_the_image_by_rounding_is_accepted():
    full = np.ones((10, 10), bool)
    crop = augmentation.mask_crop(_rle(full), np.array([0, 0, 10.00001, 10.00001], np.float32), 8)
    np.testing.assert_array_equal(crop, 255)


@pytest.mark.parametrize("seed", range(10))
def test_an_interpolated_crop_equals_that_of_the_whole_bitmap(seed):
    rng = np.random.default_rng(seed)
    bitmap = rng.random((33, 47)) < 0.5
    near, extent = rng.uniform(0, 20, 2), rng.uniform(1, 12, 2)
    box = np.array([*near, *(near + extent)], np.float32)
    picture = augmentation.Image.fromarray(bitmap * np.uint8(255))
    expected = picture.resize((16, 16), augmentation.Image.Resampling.BILINEAR, box=tuple(box.tolist()))
    crop = augmentation.mask_crop(_rle(bitmap), box, 16).astype(int)
    np.testing.assert_allclose(crop, np.asarray(expected), atol=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("as_polygons", [False, True])
def test_visible_boxes_equal_those_of_the_cut_masks(seed, as_polygons):
    rng = np.random.default_rng(seed)
    circles = [(*rng.uniform(0, [60, 80]), rng.uniform(4, 25)) for _ in range(12)]
    polygons = [_polygon_of_disc(*circle) for circle in circles]
    bitmaps = [coco.decode_mask(polygon, 60, 80).astype(bool) for polygon in polygons]
    example = _example(bitmaps, polygons if as_polygons else None)
    boxes, keep = augmentation.visible_boxes(example, Window(13, 21, 30, 40))
    shown = np.zeros((60, 80), bool)
    shown[13:43, 21:61] = True
    for bitmap, box, kept in zip(bitmaps, boxes, keep, strict=True):
        assert kept == (bitmap & shown).any()
        if kept:
            np.testing.assert_array_equal(box, _tight(bitmap & shown))
    assert 0 < keep.sum() < 12


def test_an_object_inside_the_window_keeps_its_annotated_box():
    example = _example([_disc(40, 40, 20, 20, 8)])
    loose = example._replace(boxes=np.array([[10.25, 11.5, 29.75, 28.5]], np.float32))
    boxes, keep = augmentation.visible_boxes(loose, Window(5, 5, 30, 30))
    assert keep.all()
    np.testing.assert_array_equal(boxes, loose.boxes)


def test_an_object_of_which_only_empty_parts_of_the_box_are_visible_is_dropped():
    triangle = np.tri(30, 30, dtype=bool)
    _, keep = augmentation.visible_boxes(_example([triangle]), Window(0, 20, 8, 10))
    assert not keep.any()


def test_a_sliver_of_less_than_a_pixel_is_dropped_where_the_window_cuts_and_kept_where_not():
    bitmap = np.zeros((30, 30), bool)
    bitmap[5:15, 10:21] = True
    wide = _example([bitmap])._replace(boxes=np.array([[10, 5, 20.5, 15]], np.float32))
    assert not augmentation.visible_boxes(wide, Window(0, 20, 30, 10))[1].any()
    assert augmentation.visible_boxes(wide, Window(0, 19, 30, 10))[1].all()
    narrow = wide._replace(boxes=np.array([[20, 5, 20.5, 15]], np.float32))
    assert augmentation.visible_boxes(narrow, Window(0, 20, 30, 10))[1].all()


def test_cut_moves_and_scales_boxes_per_axis():
    bitmap = np.zeros((50, 60), bool)
    bitmap[20:30, 30:50] = True
    sample = augmentation.cut(
        _example([bitmap]), Window(10, 20, 40, 40), (80, 60), images.resize_uint8, DataConfig(mask_size=14)
    )
    np.testing.assert_array_equal(sample.boxes, [[15, 20, 45, 40]])
    assert (sample.masks >= 128).all()
    assert sample.image.shape == (80, 60, 3)


def test_cut_takes_the_first_objects_with_an_extent_and_counts_the_rest():
    bitmaps = [_disc(40, 40, 20, 20, radius) for radius in (5, 8, 11, 14)]
    example = _example(bitmaps)
    example.boxes[1] = [9, 9, 9, 20]
    config = DataConfig(max_instances=2, mask_size=28)
    sample = augmentation.cut(example, Window(0, 0, 40, 40), (40, 40), images.resize_uint8, config)
    np.testing.assert_array_equal(sample.classes, [1, 3])
    np.testing.assert_array_equal(sample.boxes, example.boxes[[0, 2]])
    assert sample.num_surplus == 1


@pytest.mark.parametrize("old, new", [(480, 800), (427, 799), (97, 60), (5, 5), (3, 1), (7, 1333)])
def test_whole_masks_take_the_pixel_before(old, new):
    columns = (np.arange(old) * 2654435761 >> 7) % 2 == 1  # Any pattern that differs from its shifts.
    mask, window = _rle(np.tile(columns, (4, 1))), Window(0, 0, 4, old)
    resized = augmentation.resized_mask(mask, (4, old), window, (2, new))
    step = np.float32(old) / np.float32(new)
    source = [min(math.floor(np.float32(j) * step), old - 1) for j in range(new)]
    np.testing.assert_array_equal(resized, np.tile(columns[source] * 255, (2, 1)))


def test_a_whole_mask_by_hand():
    bitmap = np.zeros((5, 8), bool)
    bitmap[2:4, 3:6] = True
    window = Window(1, 2, 4, 6)  # The object is in its rows 1 and 2 and columns 1 to 3.
    resized = augmentation.resized_mask(_rle(bitmap), (5, 8), window, (8, 9))
    expected = np.zeros((8, 9), np.uint8)
    expected[2:6, 2:6] = 255  # Rows 0 0 1 1 2 2 3 3 of the window, and columns 0 0 1 2 2 3 4 4 5.
    np.testing.assert_array_equal(resized, expected)


def test_whole_masks_are_those_of_the_chosen_objects():
    bitmaps = [_disc(40, 40, 12, 20, radius) for radius in (5, 8, 11)]
    polygons = [_polygon_of_disc(12, 20, 5), _polygon_of_disc(12, 20, 8), _polygon_of_disc(12, 20, 11)]
    for example in (_example(bitmaps), _example(bitmaps, polygons)):
        example.boxes[1] = [9, 9, 9, 20]
        config, window = DataConfig(max_instances=2, mask_store="full"), Window(4, 0, 36, 40)
        sample = augmentation.cut(example, window, (72, 80), images.resize_uint8, config)
        assert sample.masks.dtype == np.uint8 and set(np.unique(sample.masks)) == {0, 255}
        for mask, i in zip(sample.masks, (0, 2), strict=True):
            bitmap = coco.decode_mask(example.masks[i], 40, 40)[4:]
            np.testing.assert_array_equal(mask, bitmap.repeat(2, axis=0).repeat(2, axis=1) * 255)


@pytest.mark.parametrize("mask_store", ["crop", "full"])
@pytest.mark.parametrize("axis, flip", [(0, augmentation.flip_vertically), (1, augmentation.flip_horizontally)])
def test_flips_turn_image_boxes_and_masks_alike(axis, flip, mask_store):
    bitmap = _disc(40, 50, 12, 30, 9)
    bitmap[12:, 30:] = False
    example = _example([bitmap])
    turned = _example([np.flip(bitmap, axis)])._replace(image=np.flip(example.image, axis))
    whole, config = Window(0, 0, 40, 50), DataConfig(mask_size=28, mask_store=mask_store)
    flipped = flip(augmentation.cut(example, whole, (40, 50), images.resize_uint8, config))
    expected = augmentation.cut(turned, whole, (40, 50), images.resize_uint8, config)
    np.testing.assert_array_equal(flipped.image, expected.image)
    np.testing.assert_array_equal(flipped.boxes, expected.boxes)
    np.testing.assert_allclose(flipped.masks.astype(int), expected.masks, atol=1)
    twice = flip(flipped)
    np.testing.assert_array_equal(twice.image, example.image)
    np.testing.assert_array_equal(twice.boxes, example.boxes)


def test_flips_accept_an_image_without_objects():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros((0, 28, 28), np.uint8)
    sample = Sample(np.zeros((4, 6, 3), np.uint8), *nothing, num_surplus=0)
    assert augmentation.flip_horizontally(augmentation.flip_vertically(sample)).boxes.shape == (0, 4)


def test_windows_reach_every_corner_and_stay_inside():
    config = DataConfig(crop_size=8)
    windows = [augmentation.draw(np.random.default_rng(seed), (10, 9), config).window for seed in range(200)]
    assert {(window.top, window.left) for window in windows} == {(top, left) for top in range(3) for left in range(2)}
    assert all(window[2:] == (8, 8) for window in windows)


def test_only_sides_longer_than_the_crop_are_cut():
    rng = np.random.default_rng(0)
    assert augmentation.draw(rng, (10, 50), DataConfig(crop_size=20)).window[::2] == (0, 10)
    assert augmentation.draw(rng, (10, 50), DataConfig()).window == (0, 0, 10, 50)


def test_views_follow_their_probabilities():
    config = DataConfig(short_sides=(10, 20, 30), horizontal_flip=0.5, vertical_flip=0.1)
    views = [augmentation.draw(np.random.default_rng(seed), (50, 60), config) for seed in range(400)]
    assert {view.short_side for view in views} == {10, 20, 30}
    assert 160 < sum(view.flip_horizontally for view in views) < 240
    assert 15 < sum(view.flip_vertically for view in views) < 70


def test_switching_a_flip_on_leaves_the_rest_of_a_view():
    plain = DataConfig(short_sides=(10, 20, 30), crop_size=20, horizontal_flip=0.0)
    flipped = DataConfig(short_sides=(10, 20, 30), crop_size=20, horizontal_flip=1.0)
    for seed in range(10):
        a, b = (augmentation.draw(np.random.default_rng(seed), (50, 60), config) for config in (plain, flipped))
        assert a._replace(flip_horizontally=True) == b and not a.flip_horizontally
