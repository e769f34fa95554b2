"""The largest of many numbers, computed in the way that suits the device."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

from maskrcnn_jax.ops.loops import varying_zero

NUM_PARTS = 8
# A part has at least this many times as many numbers as are kept of it; else nothing is saved.
MIN_LENGTH = 4
LANES = 128  # A TPU works on so many neighbours at once.


def top_k(x: Num[Array, " n"], count: int) -> tuple[Num[Array, " k"], Int[Array, " k"]]:
    """The ``count`` largest numbers in descending order, and their indices, as `jax.lax.top_k`.

    Of equal numbers the first come first. On GPUs and TPUs, XLA sorts the whole array for
    `jax.lax.top_k` (https://github.com/openxla/xla/issues/25487). Where ``count`` is small, a GPU
    sorts parts of the array in parallel, and then the best of all parts; a TPU counts how many
    numbers exceed a threshold, until it has found the one that ``count`` numbers reach.

    Args:
        x: float32 without NaN, or int32.
        count: At most ``n``.
    """
    whole = partial(jax.lax.top_k, k=count)
    if len(x) < NUM_PARTS * MIN_LENGTH * count:
        return tuple(whole(x))
    parts = partial(_top_k_of_parts, count=count)
    by_platform = {"cuda": parts, "rocm": parts, "tpu": partial(_top_k_by_threshold, count=count)}
    return jax.lax.platform_dependent(x, **by_platform, default=lambda x: tuple(whole(x)))


def _top_k_of_parts(x: Num[Array, " n"], count: int) -> tuple[Num[Array, " k"], Int[Array, " k"]]:
    """The same by parts. Equal numbers keep their order, within a part and between the parts."""
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    parts = jnp.pad(x, (0, -len(x) % NUM_PARTS), constant_values=lowest).reshape(NUM_PARTS, -1)
    values, indices = jax.lax.top_k(parts, count)
    indices += parts.shape[1] * jnp.arange(NUM_PARTS).reshape(-1, 1)
    values, best = jax.lax.top_k(values.reshape(-1), count)
    return values, indices.reshape(-1)[best]


def _top_k_by_threshold(
    x: Num[Array, " n"], count: int
) -> tuple[Num[Array, " k"], Int[Array, " k"]]:
    """The same by counting: 32 passes over all numbers, but nothing long is sorted or gathered."""
    ordered = _as_ordered_integers(x)
    smallest = _threshold(ordered, count)
    above, slots = ordered > smallest, jnp.arange(count)
    # All numbers above the threshold, then the first of those that equal it.
    from_equal = slots - above.sum()
    indices = jnp.where(
        from_equal < 0, _positions(above, slots), _positions(ordered == smallest, from_equal)
    )
    values, order = jax.lax.top_k(_take(x, indices), count)
    return values, indices[order]


def _as_ordered_integers(x: Num[Array, " n"]) -> Int[Array, " n"]:
    """int32 in the same order; -0.0 is below 0.0, as for `jax.lax.top_k`."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)


def _threshold(x: Int[Array, " n"], count: int) -> Int[Array, ""]:
    """The ``count``-th largest number, one bit after the other, the highest first."""

    def set_bit(i: Array, threshold: Array) -> Array:
        # In two's complement, the highest bit turns the smallest number into zero.
        higher = threshold + jnp.left_shift(jnp.int32(1), 31 - i)
        return jnp.where((x >= higher).sum() >= count, higher, threshold)

    return jax.lax.fori_loop(0, 32, set_bit, varying_zero(x, jnp.int32) + jnp.iinfo(jnp.int32).min)


def _positions(mask: Bool[Array, " n"], ranks: Int[Array, " k"]) -> Int[Array, " k"]:
    """The index of the set cell of each rank, counted from 0; meaningless where there is none."""
    rows = _rows(mask)
    ends = jnp.cumsum(rows.sum(axis=1))  # Set cells up to the end of each row.
    row = (ends.reshape(1, -1) <= ranks.reshape(-1, 1)).sum(axis=1)
    before = jnp.where(row > 0, ends[row - 1], 0)
    found = rows[row]
    is_it = found & (jnp.cumsum(found, axis=1) == (ranks - before + 1).reshape(-1, 1))
    return row * LANES + is_it.argmax(axis=1)


def _take(x: Num[Array, " n"], indices: Int[Array, " k"]) -> Num[Array, " k"]:
    """``x[indices]``, by gathering whole rows: a TPU gathers single numbers one after the other."""
    column = jnp.arange(LANES).reshape(1, -1) == (indices % LANES).reshape(-1, 1)
    return jnp.where(column, _rows(x)[indices // LANES], 0).sum(axis=1, dtype=x.dtype)


def _rows(x: Array) -> Array:
    return jnp.pad(x, (0, -len(x) % LANES)).reshape(-1, LANES)
