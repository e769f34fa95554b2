"""The part of a feature map that the canvas of each image covers."""

import jax.numpy as jnp
import numpy as np

from maskrcnn_jax.modules import extents


def test_zero_beyond():
    x = jnp.ones((2, 3, 4, 1))
    y = np.asarray(extents.zero_beyond(x, jnp.array([[2, 3], [3, 0]])))
    np.testing.assert_array_equal(y[0, ..., 0], [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(y[1], 0)
    assert extents.zero_beyond(x, None) is x


def test_halve_rounds_up():
    np.testing.assert_array_equal(extents.halve(jnp.array([[5, 6]])), [[3, 3]])
    sides = np.arange(200).reshape(-1, 2)
    for stride in (1, 2, 4, 32):
        np.testing.assert_array_equal(
            extents.halve(jnp.array(sides), stride), np.ceil(sides / stride)
        )


def test_extents_of_a_pyramid_cover_the_canvas():
    found = extents.pyramid_extents((2, 6), jnp.array([[64, 100], [32, 33]]))
    np.testing.assert_array_equal(found[2], [[16, 25], [8, 9]])
    np.testing.assert_array_equal(found[6], [[1, 2], [1, 1]])
