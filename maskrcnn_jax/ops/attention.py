"""Attention (Vaswani et al., 2017) that keeps no weights for the backward pass.

The backward pass computes them again, as in FlashAttention (Dao et al., 2022). Some queries attend
at a time, to all keys at once, so the memory for weights is that of these queries.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(
    q: Float[Array, "n q a c"],
    k: Float[Array, "n k a c"],
    v: Float[Array, "n k a d"],
    chunk: int | None = None,
) -> Float[Array, "n q a d"]:
    """``softmax(q k^T) v`` of each head.

    Logits and weights are float32; both products take the dtype of their arguments.

    Args:
        q: Queries by head ``a``, scaled.
        k: Keys.
        v: Values.
        chunk: Queries of each image that attend at once; all of them by default, and if it does not
            divide their number.
    """
    chunk = _divisor(chunk, q.shape[1])

    def attend_some(_: None, q: Array) -> tuple[None, Array]:
        return None, jnp.einsum("naqk,nkad->nqad", _weights(q, k).astype(v.dtype), v)

    _, chunks = jax.lax.scan(attend_some, None, _split(q, chunk))
    return _join(chunks)


def _forward(
    q: Array, k: Array, v: Array, chunk: int | None
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    y = attend(q, k, v, chunk)
    return y, (q, k, v, y)


def _backward(
    chunk: int | None, residuals: tuple[Array, Array, Array, Array], dy: Array
) -> tuple[Array, Array, Array]:
    """Cotangents of queries, keys and values. Those of keys and values are added in float32."""
    q, k, v, y = residuals
    chunk = _divisor(chunk, q.shape[1])
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def add(sums: tuple[Array, Array], some: tuple[Array, ...]) -> tuple[Any, Array]:
        dk, dv = sums
        q, dy, y = some
        weights = _weights(q, k)
        # The derivative of softmax: each weight times what its logit has above the mean.
        mean = product("nqad,nqad->naq", dy, y)[..., None]
        dlogits = (weights * (product("nqad,nkad->naqk", dy, v) - mean)).astype(k.dtype)
        dv += product("naqk,nqad->nkad", weights.astype(v.dtype), dy)
        dk += product("naqk,nqac->nkac", dlogits, q)
        return (dk, dv), jnp.einsum("naqk,nkac->nqac", dlogits, k)

    zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    (dk, dv), dq = jax.lax.scan(add, zeros, tuple(_split(x, chunk) for x in (q, dy, y)))
    return _join(dq), dk.astype(k.dtype), dv.astype(v.dtype)


attend.defvjp(_forward, _backward)


def _weights(q: Array, k: Array) -> Float[Array, "n a q k"]:
    logits = jnp.einsum("nqac,nkac->naqk", q, k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits)


def _divisor(chunk: int | None, num_queries: int) -> int:
    return num_queries if chunk is None or num_queries % chunk else chunk


def _split(x: Array, chunk: int) -> Array:
    """``[n, q, ...]`` to ``[q / chunk, n, chunk, ...]``."""
    return jnp.moveaxis(x.reshape(len(x), -1, chunk, *x.shape[2:]), 1, 0)


def _join(chunks: Array) -> Array:
    """The inverse of `_split`."""
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(len(x), -1, *x.shape[3:])
