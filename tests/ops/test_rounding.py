"""Rounding up, for ints and for arrays."""

import numpy as np

from maskrcnn_jax.ops.rounding import ceil32, ceil_div


def test_quotients_are_rounded_up():
    assert [ceil_div(a, 3) for a in (-1, 0, 1, 3, 4)] == [0, 0, 1, 1, 2]
    np.testing.assert_array_equal(ceil_div(np.array([7, 8, 9]), np.array([2, 4, 8])), [4, 2, 2])


def test_sizes_are_rounded_up_to_multiples_of_32():
    assert [ceil32(a) for a in (1, 32, 33)] == [32, 32, 64]
    np.testing.assert_array_equal(ceil32(np.array([[800, 1066]])), [[800, 1088]])
