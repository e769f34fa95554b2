"""RoIAlign with as many samples as a bin has cells: the sampling ratio 0 of the C++ kernels.

The number of samples follows the size of each RoI and has no bound. So the work is not laid out by samples, but by the
cells they fall on. In a bin wider than a cell, samples are more than half a cell and at most one cell apart: a bin of b
cells touches about b + 2 of them per axis, and the weight of each is the sum of the few samples around it. Bins are
walked through cell by cell, in loops as long as the largest RoI of a small group needs.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from maskrcnn_jax.ops import roi_groups

# Samples of a bin at most a cell from a cell's centre. There are three, since three or more samples of one bin are over
# 2/3 of a cell apart; the fourth is for a search that starts one too early.
NUM_NEIGHBOURS = 4


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
    bin_length = divide(length, jnp.float32(resolution))
    return Samples(start, bin_length, jnp.fmax(jnp.ceil(bin_length), 0), size)


def pool(cells: Num[Array, "n c"], rois: RoIs, resolution: int) -> Float[Array, "r p p c"]:
    """Means of the samples in each bin, in float32; samples more than a cell outside the map count as zeros.

    Not differentiable in reverse mode: `add_gradient` is its transpose.
    """
    order = jnp.lexsort(_keys(rois, resolution))
    sums = jax.lax.map(partial(_pool_group, cells, resolution=resolution), roi_groups.split(rois, order))
    return roi_groups.join(sums, order) / _num_samples(rois)


def pool_by_map(
    maps: list[Num[Array, "_n c"]], index: Int[Array, " r"], rois: RoIs, resolution: int
) -> Float[Array, "r p p c"]:
    """`pool` from one map after the other, given the index of each RoI's; offsets of RoIs are not read."""

    def pool_group(cells: Array, offsets: Array, group: RoIs) -> Array:
        return _pool_group(cells, group._replace(offsets=offsets), resolution=resolution) / _num_samples(group)

    sizes = {"resolution": resolution, "group_size": roi_groups.GROUP_SIZE}
    return roi_groups.pool_by_map(pool_group, maps, index, rois, keys=_keys(rois, resolution), **sizes)


def _pool_group(cells: Num[Array, "n c"], group: RoIs, *, resolution: int) -> Float[Array, "s p p c"]:
    """Sums of the samples in each bin."""
    zero = jnp.broadcast_to(_zero(group), (len(group.offsets), resolution, resolution, cells.shape[1]))
    rows, columns = _touched(group.rows, resolution), _touched(group.columns, resolution)

    def add_row(row: Array, row_weight: Array, sums: Array) -> Array:
        def add_column(column: Array, column_weight: Array, row_sums: Array) -> Array:
            values = cells[_index(group, row, column)].astype(jnp.float32)
            return row_sums + column_weight[:, None, :, None] * values

        # Rows summed for themselves: one sum over all cells loses a digit where bins are large.
        return sums + row_weight[:, :, None, None] * _walk(group.columns, columns, add_column, zero)

    return _walk(group.rows, rows, add_row, zero)


def add_gradient(total: Float[Array, "n c"], gradient: Float[Array, "r p p c"], rois: RoIs) -> Float[Array, "n c"]:
    """Adds the gradient of each RoI to the cells it was pooled from."""
    resolution = gradient.shape[1]

    def add_group(total, group):
        rois, gradient = group
        rows, columns = _touched(rois.rows, resolution), _touched(rois.columns, resolution)

        def add_row(row: Array, row_weight: Array, total: Array) -> Array:
            def add_column(column: Array, column_weight: Array, total: Array) -> Array:
                weight = row_weight[:, :, None] * column_weight[:, None]
                return total.at[_index(rois, row, column)].add(weight[..., None] * gradient)

            return _walk(rois.columns, columns, add_column, total)

        return _walk(rois.rows, rows, add_row, total), None

    order = jnp.lexsort(_keys(rois, resolution))
    groups = roi_groups.split((rois, gradient / _num_samples(rois)), order)
    return jax.lax.scan(add_group, total, groups)[0]


def axis_matrix(samples: Samples, size: int, resolution: int) -> Float[Array, "r p {size}"]:
    """The share of every cell of a map in each bin, along one axis; rows of the matrices that pool a map."""
    shape = len(samples.start), resolution
    weights = jax.vmap(lambda cell: _weights(samples, jnp.broadcast_to(cell, shape)), out_axes=2)(jnp.arange(size))
    return weights / jnp.fmax(samples.per_bin, 1).reshape(-1, 1, 1)


def _num_samples(rois: RoIs) -> Float[Array, "r 1 1 1"]:
    """What the kernels divide by: all samples of a bin, also those outside the map; 1 if there are none."""
    return jnp.fmax(rois.rows.per_bin * rois.columns.per_bin, 1).reshape(-1, 1, 1, 1)


def _index(rois: RoIs, row: Int[Array, "r p"], column: Int[Array, "r p"]) -> Int[Array, "r p p"]:
    """Of cells, one row and one column in each bin; where these lie beyond the map, of the last ones."""
    offsets, widths, last_row, last_column = (
        x.reshape(-1, 1) for x in (rois.offsets, rois.widths, rois.rows.size - 1, rois.columns.size - 1)
    )
    row = offsets + widths * jnp.minimum(row, last_row)
    return row[:, :, None] + jnp.minimum(column, last_column)[:, None]


def _walk(
    samples: Samples,
    touched: tuple[Int[Array, "r p"], Int[Array, " r"]],
    visit: Callable[[Array, Array, Array], Array],
    total: Array,
) -> Array:
    """Calls ``total = visit(cells, weights, total)`` along one axis, for one cell of every bin at a time.

    Cells and weights are ``[r, p]``. Bins with fewer cells than others get weights of zero in the end.
    """
    first, num_cells = touched

    def step(i: Array, total: Array) -> Array:
        return visit(first + i, _weights(samples, first + i), total)

    return jax.lax.fori_loop(0, roi_groups.batch_max(num_cells.max()), step, total)


def _positions(samples: Samples, index: Float[Array, "r p s"]) -> Float[Array, "r p s"]:
    """Of the samples with this index within their bin."""
    start, length, count = (x.reshape(-1, 1, 1) for x in (samples.start, samples.bin_length, samples.per_bin))
    bins = jnp.arange(index.shape[1], dtype=jnp.float32).reshape(1, -1, 1)
    # The kernels round the product before they add it. A compiler may fuse the two, but not where the product is itself
    # a sum, of two parts that are exact because they are short.
    high = jax.lax.reduce_precision(length, exponent_bits=8, mantissa_bits=15)
    offset = bins * high + bins * (length - high)
    return start + offset + divide((index + 0.5) * length, jnp.maximum(count, 1))


def divide(a: Float[Array, "*shape"], b: Float[Array, "*#shape"]) -> Float[Array, "*shape"]:
    """``a / b`` to the last bit.

    By a constant, or a number that is the same along an axis, XLA multiplies with the inverse: 49 cells would be cut
    into 7 bins of a little more than 7, with one sample too many, and others would be out of place by rounding.
    """
    return a / jnp.where(jnp.isnan(a), 1, b)


def _touched(samples: Samples, resolution: int) -> tuple[Int[Array, "r p"], Int[Array, " r"]]:
    """The first cell with a weight in each bin, and how many there are at most in a bin of each RoI."""
    ends = jnp.stack([jnp.zeros_like(samples.per_bin), jnp.maximum(samples.per_bin - 1, 0)], axis=1)
    ends = jnp.broadcast_to(ends[:, None], (len(ends), resolution, 2))
    cells = jnp.floor(_positions(samples, ends)) + jnp.array([0, 1], jnp.float32).reshape(1, 1, 2)
    limit = (samples.size - 1).astype(jnp.float32).reshape(-1, 1, 1)
    cells = jnp.fmin(jnp.fmax(cells, 0), limit).astype(jnp.int32)  # Unlike clip, this takes a NaN to 0.
    return cells[:, :, 0], (cells[:, :, 1] - cells[:, :, 0] + 1).max(axis=1)


def _weights(samples: Samples, cells: Int[Array, "r p"]) -> Float[Array, "r p"]:
    """Of one cell in each bin, summed over the bin's samples: 1 for a sample at its centre, 0 for one a cell away."""
    count, size = samples.per_bin.reshape(-1, 1, 1), samples.size.astype(jnp.float32).reshape(-1, 1, 1)
    spacing = samples.bin_length.reshape(-1, 1, 1) / jnp.maximum(count, 1)
    centers = cells.astype(jnp.float32)[:, :, None]
    first = jnp.round((centers - 1 - _positions(samples, jnp.zeros_like(centers))) / spacing)
    first = jnp.fmax(jnp.fmin(first, count - 1), 0)
    index = first + jnp.arange(NUM_NEIGHBOURS, dtype=jnp.float32).reshape(1, 1, -1)
    position = _positions(samples, index)
    counts = (index < count) & (position >= -1) & (position <= size)  # False for NaN.
    distance = jnp.abs(jnp.clip(position, 0, size - 1) - centers)
    return jnp.where(counts, jnp.maximum(1 - distance, 0), 0).sum(axis=2)


def _keys(rois: RoIs, resolution: int) -> tuple[Int[Array, " r"], Int[Array, " r"]]:
    """To sort RoIs by the number of rows, then of columns that have to be walked through."""
    num_rows, num_columns = (_touched(samples, resolution)[1] for samples in (rois.rows, rois.columns))
    return num_columns, num_rows


def _zero(rois: RoIs) -> Float[Array, ""]:
    """Not a constant: loops inside `shard_map` must start with a value that varies as their result does."""
    return (rois.offsets.sum() * 0).astype(jnp.float32)
