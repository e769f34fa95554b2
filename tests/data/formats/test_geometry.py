"""Polygons of ellipses."""

import numpy as np
import pytest

from maskrcnn_jax.data.formats import geometry


@pytest.mark.parametrize("radius", [0.3, 2.0, 50.0, 3000.0])
def test_a_circle_is_a_twentieth_of_a_pixel_off_at_most(radius):
    (values,) = geometry.ellipse(7.0, 9.0, radius, radius)
    points = np.reshape(values, (-1, 2)) - (7, 9)
    middles = (points + np.roll(points, 1, axis=0)) / 2
    np.testing.assert_allclose(np.hypot(*points.T), radius)
    off = radius - np.hypot(*middles.T).min()
    assert 0 < off <= 0.05 and len(points) < 1000


def test_a_huge_circle_has_few_points():
    for radius in (9e5, 1e11):
        (values,) = geometry.ellipse(0.0, 0.0, radius, radius)
        assert len(values) == 2 * 3600
