"""Polygons that reach far beyond the image are cut, and cover the same pixels."""

import time

import numpy as np
import pytest

from maskrcnn_jax.data import clipping, rle

HEIGHT, WIDTH = 40, 60


def covered(polygon):
    """Pixels whose centre is inside a polygon, by the parity of crossings."""
    points = np.array(polygon, np.longdouble).reshape(-1, 2)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + np.longdouble(0.5)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (rows < y0) != (rows < y1)
            inside ^= crosses & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
    return inside


@pytest.mark.parametrize(
    "polygon",
    [
        [10, 5, 30, 5, 30, 25],
        [-40, -40, 80, -40, 80, 80],  # Just within the short side on every side.
        [-60, -40, 120, -40, 120, 80],  # Just within three times the image.
    ],
)
def test_a_polygon_nearby_is_the_same_object(polygon):
    assert clipping.cut(polygon, HEIGHT, WIDTH) is polygon


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_polygon_covers_the_same_pixels(seed):
    rng = np.random.default_rng(seed)
    polygon = (rng.uniform(-1, 1, 2 * rng.integers(3, 8)) * 10 ** rng.uniform(2.5, 7)).tolist()
    found = clipping.cut(polygon, HEIGHT, WIDTH)
    if found:
        x, y = np.reshape(found, (-1, 2)).T
        assert -WIDTH <= x.min() and x.max() <= 2 * WIDTH
        assert -HEIGHT <= y.min() and y.max() <= 2 * HEIGHT
    np.testing.assert_array_equal(covered(found), covered(polygon))


def test_a_square_around_everything_is_three_times_the_image():
    found = clipping.cut([-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6], HEIGHT, WIDTH)
    corners = set(map(tuple, np.reshape(found, (-1, 2)).tolist()))
    assert corners == {(-60, -40), (120, -40), (120, 80), (-60, 80)}


def test_the_height_bounds_the_rows_and_the_width_the_columns():
    for polygon, is_near in (([10, 5, 110, 10, 10, 25], True), ([10, 5, 30, 110, 10, 25], False)):
        assert (clipping.cut(polygon, HEIGHT, WIDTH) is polygon) == is_near


def test_what_never_comes_near_is_empty():
    assert clipping.cut([500, 5, 600, 5, 600, 25], HEIGHT, WIDTH) == []


@pytest.mark.parametrize("corner", [(2.1e8, 3.5e8), (-9e9, 5), (30, 1e11), (1e12 - 1, 5)], ids=str)
def test_a_polygon_with_a_corner_far_away_is_drawn_at_once(corner):
    polygon = [10, 5, *corner, 30, 25, 10, 25]
    started = time.perf_counter()
    mask = rle.decode([clipping.cut(polygon, HEIGHT, WIDTH)], HEIGHT, WIDTH)
    assert time.perf_counter() - started < 1
    reference = covered(polygon)
    assert (mask != reference).mean() < 0.02 and 0 < reference.sum() < 2400
