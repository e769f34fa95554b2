"""The convolution, and its own weight gradient, against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.modules import convolution


@pytest.fixture(autouse=True)
def every_gradient_in_strips(monkeypatch):
    """Small cases too, which are otherwise left to XLA."""
    monkeypatch.setattr(convolution, "SMALLEST_GRADIENT", 0)


def lax_conv(x, kernel, stride):
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gradients(function, x, kernel, stride, weights):
    """The result, and the gradients of its weighted sum by input and kernel; one program."""

    @jax.jit
    def run(x, kernel):
        result, vjp = jax.vjp(lambda x, kernel: function(x, kernel, stride), x, kernel)
        return result, *vjp(weights.astype(result.dtype))

    return [np.asarray(value, np.float32) for value in run(x, kernel)]


def random_case(shape, features, side, stride, dtype="float32"):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape).astype(np.float32), dtype)
    kernel = jnp.asarray(rng.normal(size=(side, side, shape[-1], features)).astype(np.float32), dtype)
    result_shape = (shape[0], -(-shape[1] // stride), -(-shape[2] // stride), features)
    return x, kernel, stride, jnp.asarray(rng.normal(size=result_shape).astype(np.float32), dtype)


@pytest.mark.parametrize(
    "shape, features, side, stride",
    [
        ((1, 7, 9, 3), 5, 3, 1),  # Odd sizes, one strip of whole images.
        ((2, 33, 21, 4), 6, 3, 1),  # Strips of 15 rows that do not divide 33.
        ((1, 3, 700, 2), 3, 3, 1),  # A row longer than a strip.
        ((7, 14, 14, 3), 4, 3, 1),  # RoIs: strips of 3 images that do not divide 7.
        ((1, 1, 1, 3), 4, 3, 1),
        ((2, 9, 8, 3), 4, 3, 2),
        ((1, 15, 12, 3), 4, 7, 2),
        ((2, 9, 8, 3), 4, 1, 2),
    ],
)
def test_value_and_gradients_equal_those_of_xla(shape, features, side, stride):
    case = random_case(shape, features, side, stride)
    for ours, reference in zip(gradients(convolution.conv, *case), gradients(lax_conv, *case), strict=True):
        assert ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4 * abs(reference).max())


def test_bfloat16_kernel_gradient_is_summed_in_float32():
    """Rounded once at the end: as close to the float32 gradient as bfloat16 allows, over many strips."""
    case = random_case((1, 64, 80, 3), 4, 3, 1, "bfloat16")
    x, kernel, stride, weights = case
    exact = gradients(lax_conv, *(v.astype(jnp.float32) for v in (x, kernel)), stride, weights.astype(jnp.float32))
    result, x_gradient, kernel_gradient = gradients(convolution.conv, *case)
    np.testing.assert_allclose(kernel_gradient, exact[2], rtol=2**-8, atol=1e-3)
    np.testing.assert_allclose(result, exact[0], rtol=2**-7, atol=0.1)
    np.testing.assert_allclose(x_gradient, exact[1], rtol=2**-7, atol=0.1)
    x, kernel, _, _ = case
    assert convolution.conv(x, kernel, 1).dtype == jnp.bfloat16


def test_gradient_is_the_same_under_vmap():
    """Mapped over kernels and inputs, as in an ensemble."""
    x, kernel, _, weights = random_case((3, 5, 6, 2), 4, 3, 1)

    def gradient(function, x, kernel):
        return jax.grad(lambda kernel: (function(x[None], kernel, 1) * weights[:1]).sum())(kernel)

    kernels = jnp.stack([kernel, 2 * kernel, kernel - 1])
    ours = jax.jit(jax.vmap(lambda x, kernel: gradient(convolution.conv, x, kernel)))(x, kernels)
    reference = jax.jit(jax.vmap(lambda x, kernel: gradient(lax_conv, x, kernel)))(x, kernels)
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)
