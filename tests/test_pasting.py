"""Pasted masks equal hand-computed values and a pixel-by-pixel oracle."""

import math

import numpy as np
import pytest
from pycocotools import mask as rle_codec

from maskrcnn_jax import pasting
from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.structures import Detections


def paste_slowly(mask, box, size):
    """Computes each pixel separately, in float64 except for the corners of the box."""
    num_cells = len(mask) + 2
    padded = np.pad(mask.astype(np.float64), 1)
    x0, y0, x1, y1 = np.asarray(box, np.float32)
    half_w = (x1 - x0) * np.float32(0.5) * np.float32(num_cells / len(mask))
    half_h = (y1 - y0) * np.float32(0.5) * np.float32(num_cells / len(mask))
    x, y = (x0 + x1) * np.float32(0.5), (y0 + y1) * np.float32(0.5)
    x0, y0, x1, y1 = int(x - half_w), int(y - half_h), int(x + half_w), int(y + half_h)
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)

    def cells(pixel, extent):
        position = max((pixel + 0.5) * num_cells / extent - 0.5, 0)
        low = min(math.floor(position), num_cells - 1)
        return low, min(low + 1, num_cells - 1), position - low

    image = np.zeros(size)
    for row in range(max(y0, 0), min(y1 + 1, size[0])):
        for column in range(max(x0, 0), min(x1 + 1, size[1])):
            top, bottom, v = cells(row - y0, height)
            left, right, u = cells(column - x0, width)
            upper = padded[top, left] * (1 - u) + padded[top, right] * u
            lower = padded[bottom, left] * (1 - u) + padded[bottom, right] * u
            image[row, column] = upper * (1 - v) + lower * v
    return image


def test_paste_hand_computed_small():
    # The 4x4 mask is padded to 6x6, and the box [2.3, 1.2, 7.9, 6.6] grows to [0.9, -0.15, 9.3,
    # 7.95]. Truncated, it is [0, 0, 9, 7]: ten columns and eight rows for six cells.
    image = pasting.paste(np.ones((1, 4, 4)), np.array([[2.3, 1.2, 7.9, 6.6]]), (9, 10))[0]
    assert np.flatnonzero(image.any(1)).tolist() == list(range(1, 7))
    np.testing.assert_allclose(image[1], [0, 0.25, *[0.625] * 6, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(image[2], [0, 0.4, *[1] * 6, 0.4, 0], atol=1e-6)


def test_paste_hand_computed_at_the_border():
    image = pasting.paste(np.ones((1, 28, 28)), np.array([[0.0, 0, 10, 10]]), (12, 12))[0]
    np.testing.assert_allclose(image[0], [0.745868, *[0.863636] * 9, 0.745867, 0], atol=1e-6)
    np.testing.assert_allclose(image[5], [0.863636, *[1] * 9, 0.863636, 0], atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_paste_equals_the_oracle(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(20, 50, 2).tolist())
    corners = rng.uniform(-15, 55, (2, 2)).astype(np.float32)
    box = np.concatenate([corners.min(0), corners.max(0)])
    mask = rng.random((rng.integers(1, 15),) * 2).astype(np.float32)
    image = pasting.paste(mask[None], box[None], size)[0]
    np.testing.assert_allclose(image, paste_slowly(mask, box, size), atol=1e-5)


@pytest.mark.parametrize(
    "box",
    [[-90, 5, -50, 15], [300, 5, 420, 15], [5, -90, 15, -50], [5, 300, 15, 420]],
    ids=["left", "right", "above", "below"],
)
def test_a_box_outside_the_image_has_an_empty_patch(box):
    patch, _ = pasting.paste_in_box(np.ones((28, 28)), np.array(box), (30, 40))
    assert patch.size == 0
    assert not pasting.paste(np.ones((1, 28, 28)), np.array([box]), (30, 40)).any()


def test_a_box_without_area_covers_one_pixel():
    patch, offset = pasting.paste_in_box(np.ones((28, 28)), np.array([7.0, 3, 7, 3]), (30, 40))
    assert patch.shape == (1, 1) and offset == (3, 7)
    np.testing.assert_allclose(patch, 1)


def test_no_masks():
    assert pasting.paste(np.zeros((0, 28, 28)), np.zeros((0, 4)), (30, 40)).shape == (0, 30, 40)


@pytest.mark.parametrize(
    "box",
    [[10, 5, 30, 25], [-20, -20, 60, 60], [20, 15, 39.9, 29.9], [-90, 5, -50, 15], [0, 0, 2, 29]],
    ids=["inside", "all", "last pixel", "outside", "first column"],
)
def test_encode_equals_encoding_the_full_image(box):
    noise = np.random.default_rng(0).random((28, 28)).astype(np.float32)
    for mask in (noise, np.ones_like(noise), np.zeros_like(noise)):
        patch, offset = pasting.paste_in_box(mask, np.array(box), (30, 40))
        full = pasting.paste(mask[None], np.array([box]), (30, 40))[0] > 0.5
        expected = rle_codec.encode(np.asfortranarray(full))
        assert pasting.encode(patch, offset, (30, 40)) == {
            "size": [30, 40],
            "counts": expected["counts"].decode(),
        }


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_encode_equals_encoding_random_masks(share):
    """Small images, so that masks often reach their sides and runs go on in the next column."""
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width = random.integers(1, 8, 2)
        y0, y1 = np.sort(random.integers(0, height + 1, 2))
        x0, x1 = np.sort(random.integers(0, width + 1, 2))
        full = np.zeros((height, width), np.uint8)
        full[y0:y1, x0:x1] = random.random((y1 - y0, x1 - x0)) < share
        patch, size = full[y0:y1, x0:x1].astype(np.float32), (int(height), int(width))
        found = pasting.encode(patch, (int(y0), int(x0)), size)["counts"]
        assert found == rle_codec.encode(np.asfortranarray(full))["counts"].decode()


def test_encode_excludes_the_threshold():
    patch = np.array([[0.5, 0.6], [0.5, 0.5]], np.float32)
    assert rle_codec.area(pasting.encode(patch, (1, 1), (4, 4))) == 1


def test_a_patch_is_no_larger_than_its_box_and_a_margin():
    """Patches of hundreds of small objects in a large image take little memory."""
    patch, _ = pasting.paste_in_box(
        np.ones((28, 28), np.float32), np.array([100, 50, 120, 64], np.float32), (520, 696)
    )
    assert patch.shape[0] <= 14 + 4 and patch.shape[1] <= 20 + 4


def test_paste_at_the_centres_by_hand():
    """Numbers of pixels from Detectron2 itself; at three corners the weights multiply to 0.27."""
    patch, (y, x) = pasting.paste_centres(
        np.ones((28, 28)), np.float32([10.3, 20.7, 30.9, 40.2]), (60, 50)
    )
    rows, columns = np.nonzero(patch > 0.5)
    assert (rows.min() + y, rows.max() + y, columns.min() + x, columns.max() + x) == (
        21,
        39,
        10,
        30,
    )
    assert len(rows) == 399
    patch, (y, x) = pasting.paste_centres(
        np.ones((28, 28)), np.float32([10.45, 20.45, 70, 80]), (90, 90)
    )
    assert (patch > 0.5).sum() == 3597


@pytest.mark.parametrize("seed", range(5))
def test_paste_at_the_centres_equals_a_loop(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(20, 40, 2).tolist())
    x0, y0 = rng.uniform(-10, 10, 2).astype(np.float32).tolist()
    x1, y1 = rng.uniform(12, 45, 2).astype(np.float32).tolist()
    mask = rng.random((7, 7)).astype(np.float32)
    padded = np.pad(mask.astype(np.float64), 1)
    patch, (top, left) = pasting.paste_centres(mask, np.array([x0, y0, x1, y1]), size)
    assert patch.size
    for row in range(patch.shape[0]):
        for column in range(patch.shape[1]):
            v = (top + row + 0.5 - y0) / (y1 - y0) * 7 + 0.5
            u = (left + column + 0.5 - x0) / (x1 - x0) * 7 + 0.5
            expected = 0.0
            if 0 <= u < 8 and 0 <= v < 8:
                i, j = int(v), int(u)
                upper = padded[i, j] * (1 - u + j) + padded[i, j + 1] * (u - j)
                lower = padded[i + 1, j] * (1 - u + j) + padded[i + 1, j + 1] * (u - j)
                expected = upper * (1 - v + i) + lower * (v - i)
            np.testing.assert_allclose(patch[row, column], expected, atol=1e-5)


def test_half_counts_as_inside_at_the_centres():
    patch, _ = pasting.paste_centres(np.full((4, 4), 0.5), np.array([2.0, 2, 10, 10]), (20, 20))
    assert (patch > 0.5).sum() == 6 * 6  # Near the edge of the box, zeros beyond it are mixed in.
    for box in ([5.0, 5, 5, 9], [5, 5, 9, 5], [9, 9, 5, 5], [np.nan] * 4):
        assert pasting.paste_centres(np.ones((4, 4)), np.array(box), (20, 20))[0].size == 0


def test_boxes_are_clipped_and_empty_ones_dropped_where_the_config_says_so():
    boxes = np.float32([[-4, 0, 8, 8], [12, 4, 16, 8], [2, 2, 6, 6], [1, 1, 2, 2]])
    found = Detections(
        boxes=boxes,
        classes=np.array([1, 2, 3, 4], np.int32),
        scores=np.float32([0.9, 0.8, 0.7, 0.6]),
        masks=np.ones((4, 2, 2), np.float32),
        valid=np.array([True, True, True, False]),
    )
    plain = pasting.to_original(found, (10, 10), (20, 20))
    assert plain.labels.tolist() == [1, 2, 3] and plain.boxes[0].tolist() == [-8, 0, 16, 16]
    config = DetectionConfig(clip_to_original=True, paste="centres")
    clipped = pasting.to_original(found, (10, 10), (20, 20), config)
    assert clipped.labels.tolist() == [1, 3] and len(clipped.patches) == 2
    assert clipped.boxes.tolist() == [[0, 0, 16, 16], [4, 4, 12, 12]]
    # The rules differ at the edge: a box of 8 pixels has 8, and 9 where corners are truncated.
    inside = [(found.patches[-1][0] > 0.5).any(0).sum() for found in (clipped, plain)]
    assert inside == [8, 9]
