"""The largest of many numbers, computed in the way that suits the device."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num

NUM_PARTS = 8
# A part has at least this many times as many numbers as are kept of it; else nothing is saved.
MIN_LENGTH = 4


def top_k(x: Num[Array, " n"], count: int) -> tuple[Num[Array, " k"], Int[Array, " k"]]:
    """The ``count`` largest numbers in descending order, and their indices, as `jax.lax.top_k`.

    Of equal numbers the first come first. On a GPU, XLA sorts the whole array for `jax.lax.top_k`
    (https://github.com/openxla/xla/issues/25487). There, where ``count`` is small, this function
    sorts parts of the array in parallel, and then the best of all parts.
    """
    whole = partial(jax.lax.top_k, k=count)
    if len(x) < NUM_PARTS * MIN_LENGTH * count:
        return tuple(whole(x))
    split = partial(_top_k_of_parts, count=count)
    return jax.lax.platform_dependent(x, cuda=split, rocm=split, default=lambda x: tuple(whole(x)))


def _top_k_of_parts(x: Num[Array, " n"], count: int) -> tuple[Num[Array, " k"], Int[Array, " k"]]:
    """The same by parts. Equal numbers keep their order, within a part and between the parts."""
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    parts = jnp.pad(x, (0, -len(x) % NUM_PARTS), constant_values=lowest).reshape(NUM_PARTS, -1)
    values, indices = jax.lax.top_k(parts, count)
    indices += parts.shape[1] * jnp.arange(NUM_PARTS).reshape(-1, 1)
    values, best = jax.lax.top_k(values.reshape(-1), count)
    return values, indices.reshape(-1)[best]
