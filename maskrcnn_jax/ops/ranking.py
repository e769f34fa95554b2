"""The largest of many numbers, in the form that suits the device."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num

NUM_PARTS = 8
MIN_LENGTH = 4  # Of a part, in multiples of what is kept of it: if nearly all were kept, nothing would be saved.


def top_k(x: Num[Array, " n"], count: int) -> tuple[Num[Array, " k"], Int[Array, " k"]]:
    """The ``count`` largest, in descending order, and where they are; of equals, the first: `jax.lax.top_k`.

    XLA sorts the whole array for it on a GPU (https://github.com/openxla/xla/issues/25487). There, where few of many
    are wanted, parts of the array are sorted at the same time, and then the best of them all.
    """
    whole = partial(jax.lax.top_k, k=count)
    if len(x) < NUM_PARTS * MIN_LENGTH * count:
        return tuple(whole(x))
    split = partial(_top_k_of_parts, count=count)
    return jax.lax.platform_dependent(x, cuda=split, rocm=split, default=lambda x: tuple(whole(x)))


def _top_k_of_parts(x: Num[Array, " n"], count: int) -> tuple[Num[Array, " k"], Int[Array, " k"]]:
    """Keeps the order of equals: in each part the first come first, and so do the parts."""
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    parts = jnp.pad(x, (0, -len(x) % NUM_PARTS), constant_values=lowest).reshape(NUM_PARTS, -1)
    values, indices = jax.lax.top_k(parts, count)
    indices += parts.shape[1] * jnp.arange(NUM_PARTS).reshape(-1, 1)
    values, best = jax.lax.top_k(values.reshape(-1), count)
    return values, indices.reshape(-1)[best]
