"""Masks in the pixels of a drawing: their place, and the smoothness of their edges."""

import numpy as np
import pytest

from maskrcnn_jax.drawing import patches


def test_a_mask_keeps_its_place_when_it_is_scaled():
    inside, (top, left) = patches.pixels((np.ones((7, 5)), (3, 2)), 2.5, (100, 100))
    rows, columns = np.nonzero(inside)
    extent = [
        top + rows.min(),
        top + rows.max() + 1,
        left + columns.min(),
        left + columns.max() + 1,
    ]
    np.testing.assert_allclose(extent, [7.5, 25, 5, 17.5], atol=0.5)


def enlarged(mask, scale=8):
    height, width = (scale * side for side in mask.shape)
    inside, (y, x) = patches.pixels((mask, (0, 0)), scale, (width, height))
    full = np.zeros((height, width), bool)
    full[y : y + inside.shape[0], x : x + inside.shape[1]] = inside > 0
    return full


def disc(side, radius):
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    return x**2 + y**2 < radius**2


def test_the_edge_of_an_enlarged_mask_has_no_steps():
    """It stays nearer to a disc than the same mask without smoothing."""
    true, small = disc(160, 64), disc(20, 8)
    stepped = np.kron(small, np.ones((8, 8), bool))
    assert (enlarged(small) != true).mean() < 0.6 * (stepped != true).mean()


@pytest.mark.parametrize("mask", [np.ones((1, 9)), np.ones((9, 1)), np.ones((1, 1)), np.eye(6)])
def test_thin_masks_are_not_lost(mask):
    area = enlarged(np.pad(mask, 2)).sum() / 64
    assert 0.5 * mask.sum() < area < 1.3 * mask.sum()


def test_thin_parts_of_large_masks_are_not_lost():
    mask = np.zeros((9, 15))
    mask[1:8, 1:8] = mask[4, 8:13] = 1
    assert enlarged(mask)[:, 8 * 8 : 8 * 12].any(0).all()


def test_probabilities_are_not_smoothed():
    """The edges lie where they cross 0.5, between the centres of two pixels."""
    mask = np.repeat(np.array([[0.9, 0.8, 0.55, 0.05, 0.0]]), 5, axis=0)
    row = enlarged(mask, 10)[25]
    assert row.sum() == pytest.approx(10 * (2.5 + 0.1) - 10 * (5 / 9 - 0.5), abs=1)


def test_a_mask_at_the_size_of_the_drawing_keeps_its_pixels():
    mask = np.random.default_rng(0).random((9, 9)) > 0.5
    np.testing.assert_array_equal(enlarged(mask, 1), mask)
