"""Masks become crops and bitmaps, for any place of their image in a sample."""

import math

import numpy as np
import pytest

from maskrcnn_jax.data import masks, rle
from maskrcnn_jax.data.masks import PlacedMask, Span
from tests.data import objects


@pytest.mark.parametrize("radius", [5, 17, 45])
def test_a_pasted_crop_gives_the_mask_back(radius):
    disc = objects.disc(100, 120, 50, 60, radius)
    for mask in (rle.encode_bitmap(disc), objects.polygon_of_disc(50, 60, radius)):
        crop = masks.crop_annotation(mask, objects.tight(disc), 112)
        assert crop.shape == (112, 112) and crop.dtype == np.uint8
        assert objects.iou(objects.paste(crop, objects.tight(disc), 100, 120), disc) > 0.95


def test_polygon_and_bitmap_of_one_object_agree():
    box = np.array([10.0, 15.0, 70.0, 75.0], np.float32)
    bitmap = (
        masks.crop_annotation(rle.encode_bitmap(objects.disc(100, 120, 45, 40, 30)), box) >= 128
    )
    polygon = masks.crop_annotation(objects.polygon_of_disc(45, 40, 30), box) >= 128
    assert objects.iou(bitmap, polygon) > 0.97


def test_cells_of_a_crop_divide_the_box():
    # The box is 8 x 4 pixels and each cell 2 x 1 pixels. The object is the left quarter of the box
    # and the lower half of the rest.
    bitmap = np.zeros((20, 30), bool)
    bitmap[10:14, 5:7] = True
    bitmap[12:14, 7:13] = True
    box = np.array([5, 10, 13, 14], np.float32)
    expected = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]], bool)
    polygons = [[5.0, 10, 7, 10, 7, 14, 5, 14], [7.0, 12, 13, 12, 13, 14, 7, 14]]
    np.testing.assert_array_equal(
        masks.crop_annotation(rle.encode_bitmap(bitmap), box, 4) >= 128, expected
    )
    np.testing.assert_array_equal(masks.crop_annotation(polygons, box, 4), expected * 255)


def test_a_shrunk_bitmap_is_antialiased():
    # Every cell of the crop covers 10 x 10 pixels, and every other column belongs to the object.
    stripes = np.zeros((60, 60), bool)
    stripes[:, ::2] = True
    crop = masks.crop_annotation(
        rle.encode_bitmap(stripes), np.array([0, 0, 60, 60], np.float32), 6
    )
    np.testing.assert_allclose(crop[:, 1:-1], 127.5, atol=8)


def test_a_crop_at_the_border_is_that_of_a_larger_image():
    disc = objects.disc(40, 40, 0, 38, 12)
    enlarged = np.pad(disc, ((20, 0), (0, 20)), mode="edge")
    box = np.array([26, 0, 40, 12], np.float32)
    crop = masks.crop_annotation(rle.encode_bitmap(disc), box, 28)
    beyond = masks.crop_annotation(
        rle.encode_bitmap(enlarged), box + np.float32([0, 20, 0, 20]), 28
    )
    np.testing.assert_allclose(crop.astype(int), beyond, atol=1)


def test_a_box_beyond_the_image_by_rounding_is_accepted():
    full = np.ones((10, 10), bool)
    crop = masks.crop_annotation(
        rle.encode_bitmap(full), np.array([0, 0, 10.00001, 10.00001], np.float32), 8
    )
    np.testing.assert_array_equal(crop, 255)


@pytest.mark.parametrize("seed", range(10))
def test_an_interpolated_crop_equals_that_of_the_whole_bitmap(seed):
    rng = np.random.default_rng(seed)
    bitmap = rng.random((33, 47)) < 0.5
    near, extent = rng.uniform(0, 20, 2), rng.uniform(1, 12, 2)
    box = np.array([*near, *(near + extent)], np.float32)
    image = masks.Image.fromarray(bitmap * np.uint8(255))
    expected = image.resize((16, 16), masks.Image.Resampling.BILINEAR, box=tuple(box.tolist()))
    crop = masks.crop_annotation(rle.encode_bitmap(bitmap), box, 16).astype(int)
    np.testing.assert_allclose(crop, np.asarray(expected), atol=1)


def window_of(mask, image_size, top, left, height, width):
    """Places a mask in a window of its image."""
    placed = masks.place(mask, image_size)
    return placed._replace(
        rows=placed.rows.crop(top, height), columns=placed.columns.crop(left, width)
    )


def resized(mask, old, new):
    return mask._replace(
        rows=mask.rows.resize(old[0], new[0]), columns=mask.columns.resize(old[1], new[1])
    )


@pytest.mark.parametrize("old, new", [(480, 800), (427, 799), (97, 60), (5, 5), (3, 1), (7, 1333)])
def test_bitmaps_take_the_pixel_before(old, new):
    # A pattern that differs from its shifts.
    columns = (np.arange(old) * 2654435761 >> 7) % 2 == 1
    mask = masks.from_bitmap(np.tile(columns, (4, 1)))
    bitmap = masks.to_bitmap(resized(mask, (4, old), (2, new)), (2, new))
    step = np.float32(old) / np.float32(new)
    source = [min(math.floor(np.float32(j) * step), old - 1) for j in range(new)]
    np.testing.assert_array_equal(bitmap, np.tile(columns[source] * 255, (2, 1)))


def test_a_bitmap_by_hand():
    bitmap = np.zeros((5, 8), bool)
    bitmap[2:4, 3:6] = True
    # The object covers rows 1 and 2 and columns 1 to 3 of the window.
    mask = window_of(rle.encode_bitmap(bitmap), (5, 8), 1, 2, 4, 6)
    expected = np.zeros((8, 9), np.uint8)
    # Resizing takes rows 0 0 1 1 2 2 3 3 and columns 0 0 1 2 2 3 4 4 5 of the window.
    expected[2:6, 2:6] = 255
    np.testing.assert_array_equal(masks.to_bitmap(resized(mask, (4, 6), (8, 9)), (8, 9)), expected)


def test_a_mirrored_bitmap_is_the_bitmap_mirrored():
    bitmap = np.random.default_rng(0).random((5, 8)) < 0.5
    mask = resized(masks.from_bitmap(bitmap), (5, 8), (7, 11))
    flipped = mask._replace(rows=mask.rows.flip(7), columns=mask.columns.flip(11))
    expected = masks.to_bitmap(mask, (7, 11))[::-1, ::-1]
    np.testing.assert_array_equal(masks.to_bitmap(flipped, (7, 11)), expected)


def test_a_bitmap_that_was_moved_is_empty_where_its_image_is_not():
    bitmap = np.ones((4, 5), bool)
    mask = masks.from_bitmap(bitmap)._replace(
        rows=Span(0, 4, 2, 4, False), columns=Span(0, 5, -1, 5, False)
    )
    expected = np.zeros((8, 9), np.uint8)
    expected[2:6, :4] = 255
    np.testing.assert_array_equal(masks.to_bitmap(mask, (8, 9)), expected)


def test_a_crop_of_an_image_that_was_resized_and_mirrored_equals_the_crop_of_the_annotation(
    monkeypatch,
):
    """Mapping the box back from the resized and mirrored image is exact to the bit."""
    rng, cropped, crop_annotation = np.random.default_rng(0), [], masks.crop_annotation
    monkeypatch.setattr(
        masks, "crop_annotation", lambda *given: cropped.append(given[1]) or crop_annotation(*given)
    )
    for _ in range(50):
        polygon = objects.polygon_of_disc(*rng.uniform(20, 40, 2), rng.uniform(5, 15))
        near = rng.uniform(0, 20, 2) ** 2 / 20  # Some near zero, where float32 is most precise.
        box = np.concatenate([near, rng.uniform(30, 55, 2)]).astype(np.float32)
        mask = resized(window_of(polygon, (60, 60), 0, 0, 58, 57), (58, 57), (217, 191))
        scale = np.float64(np.float32([191, 217] * 2) / np.float32([57, 58] * 2))
        moved = box.astype(np.float64) * scale
        mirrored = moved[[2, 1, 0, 3]] * [-1, 1, -1, 1] + [191, 0, 191, 0]
        expected = crop_annotation(polygon, box, 28)
        np.testing.assert_array_equal(masks.to_crop(mask, moved, 28), expected)
        flipped = mask._replace(columns=mask.columns.flip(191))
        np.testing.assert_array_equal(masks.to_crop(flipped, mirrored, 28), expected[:, ::-1])
        np.testing.assert_array_equal(cropped[-2:], [box, box])


@pytest.mark.parametrize("seed", range(20))
def test_a_place_after_any_changes_is_that_of_each_point_after_them(seed):
    """The oracle maps two points through each crop, resize and flip."""
    rng = np.random.default_rng(seed)
    length, span = 50, Span(0, 50, 0, 50, False)
    points = np.array([10.0, 30.0])
    for change in rng.permutation(["crop", "resize", "flip", "crop", "flip", "resize"]):
        if change == "crop":
            start = int(rng.integers(-3, 10))
            length -= 7
            span, points = span.crop(start, length), points - start
        elif change == "resize":
            new = int(rng.integers(20, 90))
            span, points, length = span.resize(length, new), points * (new / length), new
        else:
            span, points = span.flip(length), length - points[::-1]
    np.testing.assert_allclose(span.to_source(*points), [10, 30], rtol=1e-5)
    np.testing.assert_allclose(span.from_source(10.0, 30.0), points, rtol=1e-5, atol=1e-4)


def test_crops_of_an_unchanged_image_stay_in_whole_pixels():
    assert Span(0, 50, 0, 50, False).crop(5, 40).crop(2, 30) == Span(7, 30, 0, 30, False)
    assert Span(0, 50, 0, 50, False).crop(-5, 60) == Span(0, 50, 5, 50, False)
    assert Span(0, 50, 0, 100, False).crop(5, 40) == Span(0, 50, -5, 100, False)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("as_polygon", [False, True])
def test_visible_bounds_are_those_of_the_pixels_in_the_sample(as_polygon, mirror):
    polygon = objects.polygon_of_disc(20, 30, 12)
    bitmap = rle.decode(polygon, 40, 60)
    mask = window_of(polygon if as_polygon else rle.encode_bitmap(bitmap), (40, 60), 15, 33, 20, 25)
    shown = bitmap[15:35, 33:58]
    if mirror:
        mask, shown = mask._replace(columns=mask.columns.flip(25)), shown[:, ::-1]
    visible = masks.to_window(mask, 0, 0, 20, 25)
    np.testing.assert_array_equal(masks.bounds(visible, 0, 0), objects.tight(shown))


def test_bounds_of_nothing_have_no_extent():
    mask = window_of(objects.polygon_of_disc(20, 30, 5), (40, 60), 0, 0, 10, 10)
    assert masks.bounds(masks.to_window(mask, 0, 0, 10, 10), 0, 0).tolist() == [0, 0, 0, 0]


def test_a_bitmap_comes_back_as_it_went_in():
    bitmap = np.random.default_rng(0).integers(0, 2, (7, 9)).astype(np.uint8)
    mask = masks.from_bitmap(bitmap)
    assert isinstance(mask, PlacedMask) and mask.image_size == (7, 9)
    np.testing.assert_array_equal(masks.to_bitmap(mask, (7, 9)), bitmap * 255)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("as_polygon", [False, True])
def test_a_window_shows_what_the_whole_bitmap_shows_there(as_polygon, mirror):
    polygon = objects.polygon_of_disc(20, 30, 12)
    annotation = polygon if as_polygon else rle.encode_bitmap(rle.decode(polygon, 40, 60))
    mask = masks.place(annotation, (40, 60))
    if mirror:
        mask = mask._replace(columns=mask.columns.flip(60))
    whole = masks.to_bitmap(mask, (40, 60)) > 0
    np.testing.assert_array_equal(masks.to_window(mask, 0, 0, 40, 60), whole)
    np.testing.assert_array_equal(masks.to_window(mask, 9, 20, 25, 17), whole[9:34, 20:37])
    assert masks.to_window(mask, 9, 20, 0, 17).shape == (0, 17)


@pytest.mark.parametrize("as_polygon", [False, True])
def test_an_enlarged_window_is_the_enlarged_mask_and_polygons_stay_smooth(as_polygon):
    polygon = objects.polygon_of_disc(20, 30, 12)
    annotation = polygon if as_polygon else rle.encode_bitmap(rle.decode(polygon, 40, 60))
    mask = masks.place(annotation, (40, 60))
    mask = mask._replace(rows=mask.rows.resize(40, 200), columns=mask.columns.resize(60, 300))
    shown = masks.to_window(mask, 30, 70, 140, 160)
    disc = objects.disc(200, 300, 100, 150, 60)[30:170, 70:230]
    assert objects.iou(shown, disc) > (0.99 if as_polygon else 0.95)
    if not as_polygon:  # Each annotated pixel has become five by five.
        repeated = rle.decode(annotation, 40, 60).repeat(5, 0).repeat(5, 1)[30:170, 70:230]
        np.testing.assert_array_equal(shown, repeated)


def test_a_window_shows_nothing_of_what_a_crop_left_out():
    mask = masks.place(rle.encode_bitmap(np.ones((20, 30))), (20, 30))
    rows, columns = mask.rows.crop(5, 10), mask.columns.crop(8, 12)
    shown = masks.to_window(mask._replace(rows=rows, columns=columns), 0, 0, 40, 40)
    expected = np.zeros((40, 40), bool)
    expected[:10, :12] = True
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("as_polygon", [False, True])
def test_a_transposed_mask_is_the_transposed_bitmap(as_polygon):
    polygon = [[3, 4, 50, 4, 50, 20, 3, 35]]
    annotation = polygon if as_polygon else rle.encode_bitmap(rle.decode(polygon, 40, 60))
    mask = window_of(annotation, (40, 60), 2, 1, 30, 50)
    expected = masks.to_bitmap(mask, (30, 50)).T > 0
    turned = masks.transpose(mask)
    assert objects.iou(masks.to_bitmap(turned, (50, 30)) > 0, expected) > (
        0.95 if as_polygon else 1 - 1e-9
    )
    assert masks.transpose(turned) == mask


def test_a_bitmap_of_a_part_lies_where_it_was_put():
    bitmap = np.random.default_rng(0).integers(0, 2, (7, 9)).astype(bool)
    mask = masks.from_bitmap(bitmap, 4, 3)
    expected = np.zeros((20, 15), bool)
    expected[4:11, 3:12] = bitmap
    np.testing.assert_array_equal(masks.to_bitmap(mask, (20, 15)) > 0, expected)
    np.testing.assert_array_equal(masks.to_window(mask, 0, 0, 20, 15), expected)
    crop = masks.to_crop(mask, np.array([3.0, 4, 12, 11]), 63)
    np.testing.assert_array_equal(objects.paste(crop, [3, 4, 12, 11], 20, 15), expected)
