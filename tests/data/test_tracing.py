"""Polygons of masks: exact, closed, with holes, and one for each part."""

import numpy as np
import pytest

from maskrcnn_jax.data import tracing


def filled(polygons, size):
    """The pixels whose centres lie inside an odd number of rings."""
    mask = np.zeros(size, bool)
    for ring in (ring for part in polygons for ring in part):
        for y, x in np.ndindex(size):
            a, b = np.array(ring[:-1]), np.array(ring[1:])
            between = (np.minimum(a[:, 1], b[:, 1]) < y + 0.5) & (
                np.maximum(a[:, 1], b[:, 1]) > y + 0.5
            )
            mask[y, x] ^= bool((between & (a[:, 0] > x)).sum() % 2)
    return mask


def test_a_pixel_is_a_square():
    assert tracing.polygons(np.ones((1, 1), bool), (5, 3)) == [
        [[(3, 5), (4, 5), (4, 6), (3, 6), (3, 5)]]
    ]
    assert tracing.polygons(np.zeros((3, 3), bool)) == []


def test_a_hole_belongs_to_the_part_around_it():
    mask = np.zeros((9, 17), bool)
    mask[:5, :5], mask[:, 6:] = True, True
    mask[2, 2] = mask[1:8, 8:15] = False
    mask[2:7, 9:14] = True  # A part in the hole of another, with a hole of its own.
    mask[4, 11] = False
    first, second, inner = sorted(tracing.polygons(mask), key=lambda part: part[0][0])
    assert [list(map(tracing.signed_area, part)) for part in (first, second, inner)] == [
        [25, -1],
        [99, -49],
        [25, -1],
    ]


def test_pixels_that_touch_at_a_corner_are_different_parts():
    assert len(tracing.polygons(np.eye(3, dtype=bool))) == 3
    (part,) = tracing.polygons(~np.eye(4, dtype=bool)[:, ::-1] | (np.arange(4) == 0)[:, None])
    assert len(part) == 1


@pytest.mark.parametrize("seed", range(20))
def test_random_masks_are_covered_exactly(seed):
    random = np.random.default_rng(seed)
    mask = random.random(random.integers(1, 9, 2)) < random.random()
    parts = tracing.polygons(mask)
    np.testing.assert_array_equal(filled(parts, mask.shape), mask)
    rings = [ring for part in parts for ring in part]
    assert sum(map(tracing.signed_area, rings)) == mask.sum()
    for part in parts:
        assert tracing.signed_area(part[0]) > 0
        assert all(tracing.signed_area(hole) < 0 for hole in part[1:])
    for ring in rings:
        steps = np.diff(np.array(ring), axis=0) != 0
        assert ring[0] == ring[-1] and (steps.sum(1) == 1).all()
        # No corner lies on a straight line.
        assert (steps[:, 0] != np.roll(steps[:, 0], 1)).all()
