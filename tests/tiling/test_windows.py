"""Grids of windows, and which of them overlap, against the obvious loops."""

import itertools

import numpy as np
import pytest

from maskrcnn_jax.tiling.windows import Window, cover


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (63, 200), (300, 257), (1000, 90)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_windows_cover_the_image_and_stay_inside(size, overlap):
    grid = cover(size, 64, overlap)
    seen = np.zeros(size, int)
    for index in range(len(grid)):
        top, left, bottom, right = grid.window(index)
        assert (bottom - top, right - left) == grid.size == (min(64, size[0]), min(64, size[1]))
        assert 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_neighbours_share_at_least_the_overlap(overlap):
    tops = cover((1000, 10), 64, overlap).tops
    shared = [64 - (b - a) for a, b in itertools.pairwise(tops)]
    assert min(shared) >= overlap * 64 and max(shared[:-1]) < overlap * 64 + 1


def test_an_image_of_a_window_and_a_pixel_has_two_windows():
    assert cover((64, 65), 64, 0.25).lefts == (0, 1)
    assert len(cover((64, 64), 64, 0.25)) == 1


@pytest.mark.parametrize("overlap", [0, 0.25, 0.6])
def test_overlapping_windows_are_those_that_share_pixels(overlap):
    grid = cover((230, 190), 64, overlap)
    windows = [grid.window(i) for i in range(len(grid))]
    for i, window in enumerate(windows):
        expected = [
            j
            for j in range(i + 1, len(windows))
            if min(window.bottom, windows[j].bottom) > max(window.top, windows[j].top)
            and min(window.right, windows[j].right) > max(window.left, windows[j].left)
        ]
        assert list(grid.overlapping(i)) == expected


def test_intersections():
    shared = Window(0, 0, 10, 20).intersection(Window(5, 15, 30, 40))
    assert shared == (5, 15, 10, 20) and shared.has_area
    assert not Window(0, 0, 10, 20).intersection(Window(0, 20, 5, 30)).has_area
