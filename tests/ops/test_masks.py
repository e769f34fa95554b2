"""Mask targets against areas by hand, supersampling, pasting, and values of the reference."""

import math

import jax
import numpy as np
import pytest

from maskrcnn_jax import pasting
from maskrcnn_jax.ops import masks
from tests import oracles
from tests.conftest import QUICK_COMPILE

crop_and_resize = jax.jit(masks.crop_and_resize, static_argnums=3)
project = jax.jit(masks.project, static_argnums=4, compiler_options=QUICK_COMPILE)


def crop(mask, mask_box, roi, resolution):
    given = (np.asarray(mask, np.uint8)[None], np.float32([mask_box]), np.float32([roi]))
    return np.asarray(crop_and_resize(*given, resolution))[0]


def crop_by_points(mask, mask_box, roi, resolution, points=40):
    """The share of a grid of points in each cell that lie inside the stored mask."""
    (x0, y0, x1, y1), n = mask_box, len(mask)
    offset = (np.arange(resolution * points) + 0.5) / (resolution * points)
    column = np.floor((roi[0] + offset * (roi[2] - roi[0]) - x0) / (x1 - x0) * n).astype(int)
    row = np.floor((roi[1] + offset * (roi[3] - roi[1]) - y0) / (y1 - y0) * n).astype(int)
    inside = ((0 <= row) & (row < n))[:, None] & ((0 <= column) & (column < n))[None]
    hit = np.where(inside, mask[np.clip(row, 0, n - 1)][:, np.clip(column, 0, n - 1)] == 255, False)
    return hit.reshape(resolution, points, resolution, points).mean(axis=(1, 3))


def test_roi_equal_to_the_box_returns_the_mask():
    mask = np.random.default_rng(0).integers(0, 2, (6, 6)) * 255
    np.testing.assert_allclose(crop(mask, [3, 5, 15, 11], [3, 5, 15, 11], 6), mask / 255, atol=1e-6)


def test_grey_is_a_share():
    np.testing.assert_allclose(
        crop(np.full((4, 4), 51), [0, 0, 8, 8], [1, 2, 5, 7], 3), 0.2, atol=1e-6
    )


def test_cells_of_a_pixel_and_a_half():
    """Rows 2 to 6 and columns 3 to 7 of a 10x10 image, cut at [2, 2, 8, 8] into 4x4 cells."""
    mask = np.zeros((10, 10))
    mask[2:7, 3:8] = 255
    rows, columns = [1, 1, 1, 1 / 3], [1 / 3, 1, 1, 1]
    np.testing.assert_allclose(
        crop(mask, [0, 0, 10, 10], [2, 2, 8, 8], 4), np.outer(rows, columns), atol=1e-6
    )


def test_roi_half_outside_the_box():
    full = np.full((4, 4), 255)
    np.testing.assert_allclose(
        crop(full, [10, 10, 20, 20], [5, 10, 15, 30], 2), [[0, 1], [0, 0]], atol=1e-6
    )


def test_roi_that_contains_the_box():
    full = np.full((5, 5), 255)
    expected = np.outer([0, 0.5, 0], [0, 1, 0])
    np.testing.assert_allclose(crop(full, [10, 10, 20, 15], [0, 0, 30, 30], 3), expected, atol=1e-6)


@pytest.mark.parametrize("roi", [[30, 0, 40, 10], [0, 30, 10, 40], [-20, -20, -1, -1]])
def test_roi_wholly_outside_is_empty(roi):
    np.testing.assert_array_equal(crop(np.full((4, 4), 255), [0, 0, 20, 20], roi, 4), 0)


@pytest.mark.parametrize("seed", range(5))
def test_equals_area_by_supersampling(seed):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (8, 8)) * 255
    mask_box = np.array([5, 7, 5 + rng.uniform(4, 30), 7 + rng.uniform(4, 30)])
    corner = rng.uniform(-5, 15, 2)
    roi = np.concatenate([corner, corner + rng.uniform(5, 30, 2)])
    expected = crop_by_points(mask, mask_box, roi, 7)
    assert 0 < expected.mean() < 1
    np.testing.assert_allclose(crop(mask, mask_box, roi, 7), expected, atol=0.05)


@pytest.mark.parametrize("mask_box", [[0, 0, 0, 0], [5, 5, 5, 15], [5, 5, 15, 15]])
@pytest.mark.parametrize("roi", [[0, 0, 0, 0], [5, 5, 5, 5], [4, 4, 20, 4], [4, 4, 12, 12]])
def test_boxes_without_area_stay_finite(mask_box, roi):
    target = crop(np.full((4, 4), 255), mask_box, roi, 4)
    assert np.isfinite(target).all() and (target >= 0).all() and (target <= 1 + 1e-5).all()


def test_crop_then_paste_keeps_the_mask():
    """An ellipse with a hole covers the same pixels after storing, cutting and pasting."""
    y, x = (np.mgrid[:112, :112] + 0.5) / 56 - 1
    ellipse = (x**2 + y**2 < 0.98) & (x**2 + y**2 > 0.1)
    box = np.float32([8, 12, 120, 124])
    stored = ellipse.reshape(56, 2, 56, 2).mean(axis=(1, 3)) * 255
    target = crop(np.round(stored), box, box, 28)
    expected = np.zeros((130, 140), bool)
    expected[12:124, 8:120] = ellipse
    patch, (top, left) = pasting.paste_in_box(target, box, expected.shape)
    pasted = np.zeros(expected.shape, bool)
    pasted[top : top + patch.shape[0], left : left + patch.shape[1]] = patch > 0.5
    assert (pasted & expected).sum() / (pasted | expected).sum() > 0.95


def test_each_roi_has_its_own_mask():
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (3, 4, 4)).astype(np.uint8)
    mask_boxes = np.float32([[0, 0, 8, 8], [2, 3, 9, 7], [1, 1, 5, 9]])
    rois = np.float32([[1, 1, 6, 6], [2, 2, 7, 7], [0, 0, 9, 9]])
    together = crop_and_resize(stored, mask_boxes, rois, 5)
    for i in range(3):
        np.testing.assert_allclose(
            together[i], crop(stored[i], mask_boxes[i], rois[i], 5), atol=1e-5
        )


def test_projected_values_of_torchvision():
    mask = np.zeros((1, 10, 10), np.uint8)
    mask[0, 2:7, 3:8] = 255
    target = project(mask, np.int32([0]), np.float32([[2, 2, 8, 8]]), np.int32([10, 10]), 4)
    rows = [[0.6875, 1, 1, 0.6875]] * 2 + [
        [0.644531, 0.9375, 0.9375, 0.644531],
        [0.042969, 0.0625, 0.0625, 0.042969],
    ]
    np.testing.assert_allclose(target[0], rows, atol=1e-6)


def random_rois(seed, num_rois, height, width):
    """RoIs inside the image, across its border and beyond it, thin and without area."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-0.1, 1.1, (num_rois, 2)) * [width, height]
    sides = np.exp(rng.uniform(np.log(0.3), np.log(1.5 * max(height, width)), (num_rois, 2)))
    sides[0], sides[1, 0] = 0, 0
    rois = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    rois[2:5] = [
        [0, 0, width, height],
        [width, height, width + 9, height + 9],
        [-30, -30, -20, -20],
    ]
    return rng.integers(0, 3, num_rois).astype(np.int32), rois.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_projection_equals_a_loop_over_samples(seed):
    stored = np.random.default_rng(seed).integers(0, 2, (3, 53, 71)).astype(np.uint8) * 255
    instances, rois = random_rois(seed, 30, 53, 71)
    targets = project(stored, instances, rois, np.int32([53, 71]), 7)
    for target, i, roi in zip(targets, instances, rois, strict=True):
        expected = oracles.roi_align(stored[i, :, :, None] / 255, roi[None], 1.0, 7, 0, False)[
            0, :, :, 0
        ]
        np.testing.assert_allclose(target, expected, atol=2e-5)


def kernel_weights(start, stop, size, resolution):
    """Weights ``[p, n]`` of cells in each bin; positions are float32 at each step, as in C++."""
    f32 = np.float32
    length = max(stop - start, f32(1)) / f32(resolution)
    count = math.ceil(length)
    bins, samples = (
        np.arange(resolution, dtype=f32)[:, None],
        np.arange(count, dtype=f32) + f32(0.5),
    )
    position = (start + bins * length + samples * length / f32(count)).astype(np.float64)
    inside = (position >= -1) & (position <= size)
    distance = np.abs(np.clip(position, 0, size - 1)[..., None] - np.arange(size))
    return (np.maximum(1 - distance, 0) * inside[..., None]).sum(1) / count


@pytest.mark.parametrize("compiler_options", [None, QUICK_COMPILE], ids=["optimised", "quick"])
def test_projection_is_as_exact_as_float32_positions_are(compiler_options):
    """In large images, an error of one ulp in a position or in a sum moves a target by 1e-4."""
    stored = np.random.default_rng(0).integers(0, 2, (1, 800, 1333)).astype(np.uint8) * 255
    stored[:, 300:600, 500:900] = 255
    rois = [
        [0, 0, 1333, 800],
        [3.3, 5.7, 1320.2, 790.1],
        [1260.5725, 188.9666, 1261.706, 237.88428],
        [480, 290, 910, 605],
    ]
    rois, none = np.float32(rois), np.zeros(4, np.int32)
    project = jax.jit(masks.project, static_argnums=4, compiler_options=compiler_options)
    targets = project(stored, none, rois, np.int32([800, 1333]), 28)
    for target, (x0, y0, x1, y1) in zip(targets, rois, strict=True):
        rows, columns = kernel_weights(y0, y1, 800, 28), kernel_weights(x0, x1, 1333, 28)
        np.testing.assert_allclose(target, rows @ (stored[0] / 255) @ columns.T, atol=1e-6)


def test_projection_ends_with_the_image():
    """Neither the content nor the size of the padding changes a target."""
    instances, rois = random_rois(9, 30, 53, 71)
    stored = np.random.default_rng(9).integers(0, 2, (3, 53, 71)).astype(np.uint8) * 255
    expected = project(stored, instances, rois, np.int32([53, 71]), 7)
    for bucket in ((64, 96), (128, 96)):
        padded = np.full((3, *bucket), 99, np.uint8)
        padded[:, :53, :71] = stored
        np.testing.assert_array_equal(
            project(padded, instances, rois, np.int32([53, 71]), 7), expected
        )


def test_projections_of_a_batch_are_those_of_its_images():
    stored = np.random.default_rng(1).integers(0, 2, (2, 3, 53, 71)).astype(np.uint8) * 255
    pairs = [random_rois(seed, 30, 53, 71) for seed in (3, 4)]
    instances, rois = (np.stack(part) for part in zip(*pairs, strict=True))
    sizes = np.int32([[53, 71], [40, 60]])
    batch = jax.jit(
        jax.vmap(lambda *image: masks.project(*image, 7)), compiler_options=QUICK_COMPILE
    )
    together = batch(stored, instances, rois, sizes)
    for i in range(2):
        alone = project(stored[i], instances[i], rois[i], sizes[i], 7)
        np.testing.assert_allclose(together[i], alone, atol=1e-6)
