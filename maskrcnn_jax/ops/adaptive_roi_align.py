"""RoIAlign with as many samples as a bin has cells: the sampling ratio 0 of the C++ kernels.

The number of samples follows the size of each RoI and has no bound. So the work is not laid out by samples, but by the
cells they fall on. In a bin wider than a cell, samples are more than half a cell and at most one cell apart: a bin of b
cells touches about b + 2 of them per axis, and the weight of each is the sum of the few samples around it. Bins are
walked through cell by cell, in loops as long as the largest RoI of a small group needs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

GROUP_SIZE = 16  # RoIs that are worked through together, sorted so that they need about as many steps.
NUM_NEIGHBOURS = 5  # Samples at most a cell from a cell's centre: four, and one more for rounding.


class Samples(NamedTuple):
    """Where the samples of each RoI lie along one axis, in cells of a map that has ``size`` of them."""

    start: Float[Array, " r"]
    bin_length: Float[Array, " r"]
    per_bin: Float[Array, " r"]  # A whole number; 0 where the box is inside out or not a number.
    size: Int[Array, " r"]


class RoIs(NamedTuple):
    """RoIs and the maps they are pooled from, which lie row by row behind each other in one array of cells."""

    offsets: Int[Array, " r"]  # First cell of the map of each RoI.
    widths: Int[Array, " r"]  # Cells from one row of this map to the next.
    rows: Samples
    columns: Samples


def axis_samples(
    start: Float[Array, " r"], stop: Float[Array, " r"], size: Int[Array, " r"], *, resolution: int, aligned: bool
) -> Samples:
    """Cuts the way from ``start`` to ``stop``, in cells, into ``resolution`` bins of ``ceil(length)`` samples each."""
    if aligned:
        start, stop = start - 0.5, stop - 0.5
    length = stop - start if aligned else jnp.maximum(stop - start, 1)
    # Not a constant: XLA would multiply by its inverse, and 7 bins of 7.0000005 cells have one sample too many.
    divisor = jnp.where(jnp.isnan(length), 1.0, resolution)
    bin_length = length / divisor
    return Samples(start, bin_length, jnp.fmax(jnp.ceil(bin_length), 0), size)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pool(cells: Num[Array, "n c"], rois: RoIs, resolution: int) -> Float[Array, "r p p c"]:
    """Means of the samples in each bin, in float32; samples more than a cell outside the map count as zeros.

    Differentiable in reverse mode by the cells only.
    """

    def pool_group(group: RoIs) -> Float[Array, "s p p c"]:
        def add(pooled: Array, index: Array, weight: Array) -> Array:
            return pooled + weight[..., None] * cells[index].astype(jnp.float32)

        shape = (GROUP_SIZE, resolution, resolution, cells.shape[1])
        return _for_each_cell(add, jnp.broadcast_to(_zero(group), shape), group, resolution)

    order = _order(rois, resolution)
    pooled = jax.lax.map(pool_group, _split(rois, order))  # [groups, s, p, p, c]
    return pooled.reshape(-1, *pooled.shape[2:])[jnp.argsort(order)]


def _pool_forward(cells, rois, resolution):
    dtype_and_length = cells[:, :0]  # All the backward pass needs of them; the pyramid would be kept in memory.
    return pool(cells, rois, resolution), (dtype_and_length, rois)


def _pool_backward(resolution, residuals, gradient):
    """Adds the gradient of each RoI to the cells it was pooled from, in float32."""
    cells, rois = residuals

    def add_group(total, group):
        rois, gradient = group

        def add(total: Array, index: Array, weight: Array) -> Array:
            return total.at[index].add(weight[..., None] * gradient)

        return _for_each_cell(add, total, rois, resolution), None

    total = jnp.broadcast_to(_zero(rois), (cells.shape[0], gradient.shape[-1]))
    total, _ = jax.lax.scan(add_group, total, _split((rois, gradient), _order(rois, resolution)))
    return total.astype(cells.dtype), None


pool.defvjp(_pool_forward, _pool_backward)


def _for_each_cell(
    add: Callable[[Array, Array, Array], Array], total: Array, rois: RoIs, resolution: int
) -> Float[Array, "..."]:
    """Calls ``add(total, index, weight)`` for the cells of all bins, one cell of each bin at a time.

    ``index`` and ``weight`` are ``[r, p, p]``. Bins with fewer cells than others get weights of zero in the end.
    """
    first_row, num_rows = _touched(rois.rows, resolution)
    first_column, num_columns = _touched(rois.columns, resolution)
    offsets, widths, last_row, last_column = (
        x.reshape(-1, 1) for x in (rois.offsets, rois.widths, rois.rows.size - 1, rois.columns.size - 1)
    )

    def add_row(i: Array, total: Array) -> Array:
        row = first_row + i
        row_weight = _weights(rois.rows, row)
        row_index = offsets + widths * jnp.minimum(row, last_row)

        def add_column(j: Array, total: Array) -> Array:
            column = first_column + j
            weight = row_weight[:, :, None] * _weights(rois.columns, column)[:, None]
            return add(total, row_index[:, :, None] + jnp.minimum(column, last_column)[:, None], weight)

        return jax.lax.fori_loop(0, _batch_max(num_columns.max()), add_column, total)

    return jax.lax.fori_loop(0, _batch_max(num_rows.max()), add_row, total)


@jax.custom_batching.custom_vmap
def _batch_max(num_steps: Int[Array, ""]) -> Int[Array, ""]:
    """The most steps any image of the batch needs.

    With a number for each image, a mapped loop would select between the old and the new total after every step.
    """
    return num_steps


@_batch_max.def_vmap
def _batch_max_vmap(axis_size, in_batched, num_steps):
    return _batch_max(num_steps.max()), False


def _positions(samples: Samples, index: Float[Array, "r p s"]) -> Float[Array, "r p s"]:
    """Of the samples with this index within their bin."""
    start, length, count = (x.reshape(-1, 1, 1) for x in (samples.start, samples.bin_length, samples.per_bin))
    bins = jnp.arange(index.shape[1], dtype=jnp.float32).reshape(1, -1, 1)
    return start + bins * length + (index + 0.5) * length / jnp.maximum(count, 1)


def _touched(samples: Samples, resolution: int) -> tuple[Int[Array, "r p"], Int[Array, " r"]]:
    """The first cell with a weight in each bin, and how many there are at most in a bin of each RoI."""
    ends = jnp.stack([jnp.zeros_like(samples.per_bin), jnp.maximum(samples.per_bin - 1, 0)], axis=1)
    ends = jnp.broadcast_to(ends[:, None], (len(ends), resolution, 2))
    cells = jnp.floor(_positions(samples, ends)) + jnp.array([0, 1], jnp.float32).reshape(1, 1, 2)
    limit = (samples.size - 1).astype(jnp.float32).reshape(-1, 1, 1)
    cells = jnp.fmin(jnp.fmax(cells, 0), limit).astype(jnp.int32)  # Unlike clip, this takes a NaN to 0.
    return cells[:, :, 0], (cells[:, :, 1] - cells[:, :, 0] + 1).max(axis=1)


def _weights(samples: Samples, cells: Int[Array, "r p"]) -> Float[Array, "r p"]:
    """Share of each bin's mean that one of its cells has: how near the samples around it come to its centre."""
    count, size = samples.per_bin.reshape(-1, 1, 1), samples.size.astype(jnp.float32).reshape(-1, 1, 1)
    spacing = samples.bin_length.reshape(-1, 1, 1) / jnp.maximum(count, 1)
    centers = cells.astype(jnp.float32)[:, :, None]
    first = jnp.round((centers - 1 - _positions(samples, jnp.zeros_like(centers))) / spacing)
    first = jnp.fmax(jnp.fmin(first, count - 1), 0)
    index = first + jnp.arange(NUM_NEIGHBOURS, dtype=jnp.float32).reshape(1, 1, -1)
    position = _positions(samples, index)
    counts = (index < count) & (position >= -1) & (position <= size)  # False for NaN.
    distance = jnp.abs(jnp.clip(position, 0, size - 1) - centers)
    weights = jnp.where(counts, jnp.maximum(1 - distance, 0), 0) / jnp.maximum(count, 1)
    return weights.sum(axis=2)


def _order(rois: RoIs, resolution: int) -> Int[Array, " r"]:
    """By the number of rows, then of columns that have to be walked through."""
    num_rows, num_columns = (_touched(samples, resolution)[1] for samples in (rois.rows, rois.columns))
    return jnp.lexsort((num_columns, num_rows))


def _split(tree: Any, order: Int[Array, " r"]) -> Any:
    """``[r, ...]`` to ``[groups, s, ...]``; the last group is filled up with zeros."""

    def split(x: Array) -> Array:
        x = jnp.pad(x[order], [(0, -len(order) % GROUP_SIZE)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, GROUP_SIZE, *x.shape[1:])

    return jax.tree.map(split, tree)


def _zero(rois: RoIs) -> Float[Array, ""]:
    """Not a constant: loops inside `shard_map` must start with a value that varies as their result does."""
    return (rois.offsets.sum() * 0).astype(jnp.float32)
