"""Winograd's convolution and the gradient of its kernel against XLA's."""

import jax
import numpy as np
import pytest

from maskrcnn_jax.ops import winograd
from tests.conftest import QUICK_COMPILE
from tests.ops.test_convolution import lax_conv, random_case


@pytest.mark.parametrize("shape", [(1, 6, 8, 3), (2, 7, 5, 3), (3, 1, 2, 2), (1, 2, 1, 4)])
def test_winograd_equals_a_direct_convolution(shape):
    x, kernel, stride, _ = random_case(shape, 5, 3, 1)
    exact = np.asarray(lax_conv(x, kernel, stride))
    result = jax.jit(winograd.convolve)(x, kernel)
    np.testing.assert_allclose(result, exact, rtol=0, atol=2e-6 * abs(exact).max())


def test_the_gradient_of_the_kernel_is_that_of_a_direct_convolution():
    """The result has an odd number of rows and of columns, which fill no whole tile."""
    x, kernel, stride, gradient = random_case((2, 7, 5, 3), 4, 3, 1)

    @jax.jit(compiler_options=QUICK_COMPILE)
    def run(x, kernel, gradient):
        _, pull = jax.vjp(lambda kernel: lax_conv(x, kernel, stride), kernel)
        return winograd.kernel_gradient(x, gradient), *pull(gradient)

    ours, expected = run(x, kernel, gradient)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize(
    "shape, kernel_shape, faster",
    [
        ((1, 40, 30, 64), (3, 3, 64, 64), True),  # 20 x 15 tiles.
        ((1, 40, 28, 64), (3, 3, 64, 64), False),
        ((1, 39, 29, 64), (3, 3, 64, 64), True),  # Half tiles count.
        ((2, 20, 30, 64), (3, 3, 64, 64), True),
        ((1, 40, 30, 64), (3, 3, 64, 63), False),
        ((1, 40, 30, 63), (3, 3, 63, 64), False),
        ((1, 40, 30, 64), (1, 1, 64, 64), False),
    ],
)
def test_large_maps_of_many_channels_are_worth_the_transforms(shape, kernel_shape, faster):
    assert winograd.is_faster(shape, kernel_shape) == faster
