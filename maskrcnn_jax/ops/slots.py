"""Chunks of slots, for arrays that are too large to exist at once."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from maskrcnn_jax.ops.rounding import ceil_div


def split(x: Array, size: int) -> Array:
    """``[n, ...]`` to ``[chunks, size, ...]``; zeros fill the last chunk."""
    n, *rest = x.shape
    num_chunks = ceil_div(n, size)
    x = jnp.pad(x, [(0, num_chunks * size - n)] + [(0, 0)] * len(rest))
    return x.reshape(num_chunks, size, *rest)


def join(chunks: Array, n: int) -> Array:
    """The inverse of `split`: ``[chunks, size, ...]`` to ``[n, ...]``."""
    num_chunks, size, *rest = chunks.shape
    return chunks.reshape(num_chunks * size, *rest)[:n]


def map_chunks(
    function: Callable[..., Array], size: int, valid: Bool[Array, "b d"], *slots: Array
) -> Array:
    """``function(*slots)``, computed for ``size`` slots of each image at a time.

    A chunk without a valid slot in any image is skipped; its results are zero.

    Args:
        function: Maps arrays ``[b, size, ...]`` to an array ``[b, size, ...]``, slot by slot.
        valid: The slots that are used.
        slots: Arrays ``[b, d, ...]``.
    """

    def map_chunk(_: None, chunk: tuple[Array, ...]) -> tuple[None, Array]:
        valid, *slots = chunk
        empty = jax.eval_shape(function, *slots)

        def skip(*_: Array) -> Array:
            return jnp.zeros(empty.shape, empty.dtype)

        return None, jax.lax.cond(valid.any(), function, skip, *slots)

    size = max(min(size, valid.shape[1]), 1)  # No chunk is larger than the slots there are.
    split_images = jax.vmap(partial(split, size=size), out_axes=1)
    chunks = tuple(split_images(x) for x in (valid, *slots))
    _, results = jax.lax.scan(map_chunk, None, chunks)  # [chunks, b, size, ...]
    return jax.vmap(partial(join, n=valid.shape[1]), in_axes=1)(results)
