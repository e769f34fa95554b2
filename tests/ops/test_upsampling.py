"""Upsampling by two: the programs of all platforms against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import upsampling

FORMS = upsampling._double_by_broadcast, upsampling._double_by_convolution


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_repeat_each_cell_and_add_its_gradients(form, dtype):
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4), dtype)
    found, vjp = jax.vjp(jax.jit(form), x)
    expected = np.repeat(np.repeat(np.asarray(x), 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(found, expected)
    (gradient,) = vjp(jnp.ones_like(found))
    np.testing.assert_array_equal(gradient, np.full(x.shape, 4, gradient.dtype))


def test_an_empty_batch():
    assert upsampling.double(jnp.zeros((0, 3, 5, 4))).shape == (0, 6, 10, 4)
