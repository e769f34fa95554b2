"""The convolution, with its gradients, against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.modules import convolution


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
    [((1, 7, 9, 3), 5, 3, 1), ((2, 9, 8, 3), 4, 3, 2), ((1, 15, 12, 3), 4, 7, 2), ((2, 9, 8, 3), 4, 1, 2)],
)
def test_value_and_gradients_equal_those_of_xla(shape, features, side, stride):
    case = random_case(shape, features, side, stride)
    for ours, reference in zip(gradients(convolution.conv, *case), gradients(lax_conv, *case), strict=True):
        assert ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4 * abs(reference).max())
