"""Attention against NumPy, and its gradient against that of the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.attention import attend
from tests.conftest import QUICK_COMPILE

RNG = np.random.default_rng(0)
Q, K, V, DY = (
    RNG.normal(size=shape).astype(np.float32)
    for shape in ((2, 6, 3, 4), (2, 5, 3, 4), (2, 5, 3, 7), (2, 6, 3, 7))
)


def plain(q, k, v):
    logits = jnp.einsum("nqac,nkac->naqk", q, k)
    return jnp.einsum("naqk,nkad->nqad", jax.nn.softmax(logits), v)


@pytest.mark.parametrize("chunk", [None, 1, 2, 4, 6])
def test_equals_loops_over_queries(chunk):
    """Chunks of 4 do not divide 6 queries: all attend at once."""
    found = attend(jnp.asarray(Q), jnp.asarray(K), jnp.asarray(V), chunk)
    expected = np.zeros((2, 6, 3, 7))
    for n, q, a in np.ndindex(2, 6, 3):
        weights = np.exp(K[n, :, a] @ Q[n, q, a])
        expected[n, q, a] = weights / weights.sum() @ V[n, :, a]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_the_gradient_is_that_of_the_formula(chunk, dtype, tolerance):
    given = [jnp.asarray(x, dtype) for x in (Q, K, V)]

    def gradients(function, arrays, *settings):
        _, pullback = jax.vjp(lambda *x: function(*x, *settings), *arrays)
        return pullback(jnp.asarray(DY, arrays[0].dtype))

    run = jax.jit(lambda *x: gradients(attend, x, chunk), compiler_options=QUICK_COMPILE)
    expected = gradients(plain, [x.astype("float32") for x in given])
    for ours, theirs in zip(run(*given), expected, strict=True):
        assert ours.dtype == dtype
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(np.float32(ours), theirs, atol=tolerance * scale)


def test_large_logits_do_not_overflow():
    found = attend(
        1e3 * jnp.ones((1, 1, 1, 1)), jnp.array([[[[1.0]], [[2.0]]]]), jnp.ones((1, 2, 1, 1))
    )
    np.testing.assert_array_equal(found, 1)


def test_no_array_has_all_queries_and_keys():
    """Neither in the forward nor in the backward pass."""
    q, k = jnp.zeros((1, 64, 2, 3)), jnp.zeros((1, 48, 2, 3))
    jaxpr = jax.make_jaxpr(jax.grad(lambda q, k: attend(q, k, k, 8).sum(), (0, 1)))(q, k)
    assert "8,48]" in str(jaxpr) and "64,48]" not in str(jaxpr)
