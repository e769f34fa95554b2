"""RoIAlign with as many samples as a bin has cells: the sampling ratio 0 of the C++ kernels.

The number of samples follows the size of each RoI and has no bound, so the loops run over cells
instead of samples. In a bin wider than a cell, samples are more than half a cell and at most one
cell apart. A bin of b cells therefore touches about b + 2 cells per axis, and the weight of a cell
is the sum over the few samples around it. A loop visits one cell of every bin per step; it takes as
many steps as the largest RoI of a small group needs.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from maskrcnn_jax.ops.loops import batch_max, varying_zero
from maskrcnn_jax.ops.roi_pooling import groups

# Samples of a bin within a cell of a cell's centre. There are at most three, since three or more
# samples of one bin are over 2/3 of a cell apart; the fourth is for a search that starts one early.
NUM_NEIGHBOURS = 4


class Samples(NamedTuple):
    """The samples of each RoI along one axis, in cells of its map."""

    start: Float[Array, " r"]
    bin_length: Float[Array, " r"]
    per_bin: Float[Array, " r"]  # A whole number; 0 where the box is inside out or NaN.
    size: Int[Array, " r"]  # Cells of the map along this axis.


class SampledRoIs(NamedTuple):
    """RoIs with their samples, on maps that are joined, row by row, to one array of cells."""

    offsets: Int[Array, " r"]  # First cell of the map of each RoI.
    widths: Int[Array, " r"]  # Cells from one row of this map to the next.
    rows: Samples
    columns: Samples


def axis_samples(
    start: Float[Array, " r"],
    stop: Float[Array, " r"],
    size: Int[Array, " r"],
    *,
    resolution: int,
    aligned: bool,
) -> Samples:
    """Cuts ``start`` to ``stop``, in cells, into bins of ``ceil(bin_length)`` samples each."""
    if aligned:
        start, stop = start - 0.5, stop - 0.5
    length = stop - start if aligned else jnp.maximum(stop - start, 1)
    bin_length = divide(length, jnp.float32(resolution))
    return Samples(start, bin_length, jnp.fmax(jnp.ceil(bin_length), 0), size)


def pool(cells: Num[Array, "n c"], rois: SampledRoIs, resolution: int) -> Float[Array, "r p p c"]:
    """Means of the samples in each bin, in float32; samples over a cell outside the map are zeros.

    Not differentiable in reverse mode: `add_gradient` is its transpose.
    """
    order = jnp.lexsort(_sort_keys(rois, resolution))
    pool_group = partial(_sum_samples, cells, resolution=resolution)
    sums = jax.lax.map(pool_group, groups.split(rois, order))
    return groups.join(sums, order) / _num_samples(rois)


def pool_by_map(
    maps: list[Num[Array, "_n c"]], index: Int[Array, " r"], rois: SampledRoIs, resolution: int
) -> Float[Array, "r p p c"]:
    """`pool` from one map after the other; ignores the offsets of ``rois``.

    Args:
        maps: The cells of each map, row by row.
        index: The map that each RoI is pooled from.
        rois: RoIs with their samples.
        resolution: Bins per axis.
    """

    def pool_group(cells: Array, offsets: Array, group: SampledRoIs) -> Array:
        sums = _sum_samples(cells, group._replace(offsets=offsets), resolution=resolution)
        return sums / _num_samples(group)

    keys = _sort_keys(rois, resolution)
    settings = {"resolution": resolution, "group_size": groups.GROUP_SIZE}
    return groups.pool_by_map(pool_group, maps, index, rois, keys=keys, **settings)


def _sum_samples(
    cells: Num[Array, "n c"], group: SampledRoIs, *, resolution: int
) -> Float[Array, "s p p c"]:
    """Sums of the samples in each bin."""
    zero = varying_zero(group.offsets, jnp.float32)
    shape = len(group.offsets), resolution, resolution, cells.shape[1]
    zeros = jnp.broadcast_to(zero, shape)
    rows, columns = _touched(group.rows, resolution), _touched(group.columns, resolution)

    def add_row(row: Array, row_weight: Array, sums: Array) -> Array:
        def add_column(column: Array, column_weight: Array, row_sums: Array) -> Array:
            values = cells[_index(group, row, column)].astype(jnp.float32)
            return row_sums + column_weight[:, None, :, None] * values

        # Each row has a sum of its own: a single sum over all cells of a large bin loses a digit.
        row_sums = _walk(group.columns, columns, add_column, zeros)
        return sums + row_weight[:, :, None, None] * row_sums

    return _walk(group.rows, rows, add_row, zeros)


def add_gradient(
    total: Float[Array, "n c"], gradient: Float[Array, "r p p c"], rois: SampledRoIs
) -> Float[Array, "n c"]:
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

    order = jnp.lexsort(_sort_keys(rois, resolution))
    grouped = groups.split((rois, gradient / _num_samples(rois)), order)
    return jax.lax.scan(add_group, total, grouped)[0]


def axis_matrix(samples: Samples, size: int, resolution: int) -> Float[Array, "r p {size}"]:
    """The weight of each of the ``size`` cells of a map in each bin, along one axis."""
    shape = len(samples.start), resolution

    def cell_weights(cell: Int[Array, ""]) -> Float[Array, "r p"]:
        return _weights(samples, jnp.broadcast_to(cell, shape))

    weights = jax.vmap(cell_weights, out_axes=2)(jnp.arange(size))
    return weights / jnp.fmax(samples.per_bin, 1).reshape(-1, 1, 1)


def _num_samples(rois: SampledRoIs) -> Float[Array, "r 1 1 1"]:
    """The divisor of the kernels: all samples of a bin, also those outside the map; at least 1."""
    return jnp.fmax(rois.rows.per_bin * rois.columns.per_bin, 1).reshape(-1, 1, 1, 1)


def _index(
    rois: SampledRoIs, row: Int[Array, "r p"], column: Int[Array, "r p"]
) -> Int[Array, "r p p"]:
    """Cells at one row and one column of each bin; beyond the map, its last row and column."""
    offsets, widths = rois.offsets.reshape(-1, 1), rois.widths.reshape(-1, 1)
    last_row, last_column = (
        (samples.size - 1).reshape(-1, 1) for samples in (rois.rows, rois.columns)
    )
    row = offsets + widths * jnp.minimum(row, last_row)
    return row[:, :, None] + jnp.minimum(column, last_column)[:, None]


def _walk(
    samples: Samples,
    touched: tuple[Int[Array, "r p"], Int[Array, " r"]],
    visit: Callable[[Array, Array, Array], Array],
    total: Array,
) -> Array:
    """Calls ``total = visit(cells, weights, total)`` along one axis, for one cell of every bin.

    Cells and weights are ``[r, p]``. A bin without cells left gets weights of zero.
    """
    first, num_cells = touched

    def step(i: Array, total: Array) -> Array:
        return visit(first + i, _weights(samples, first + i), total)

    return jax.lax.fori_loop(0, batch_max(num_cells.max()), step, total)


def _positions(samples: Samples, index: Float[Array, "r p s"]) -> Float[Array, "r p s"]:
    """Positions, in cells, of the samples with this index within their bin."""
    start, length, count = (
        x.reshape(-1, 1, 1) for x in (samples.start, samples.bin_length, samples.per_bin)
    )
    bins = jnp.arange(index.shape[1], dtype=jnp.float32).reshape(1, -1, 1)
    # The kernels round the product ``bins * length`` before they add it. A compiler may fuse the
    # product and the sum, but not where the product is itself a sum of two parts, which are exact
    # because their factors are short.
    high = jax.lax.reduce_precision(length, exponent_bits=8, mantissa_bits=15)
    offset = bins * high + bins * (length - high)
    return start + offset + divide((index + 0.5) * length, jnp.maximum(count, 1))


def divide(a: Float[Array, "*shape"], b: Float[Array, "*#shape"]) -> Float[Array, "*shape"]:
    """``a / b``, correctly rounded.

    If ``b`` is a constant, or the same along an axis, XLA multiplies by its inverse instead. Then
    49 cells would be cut into 7 bins of a little more than 7 cells, with one sample too many, and
    other samples would be misplaced by rounding.
    """
    return a / jnp.where(jnp.isnan(a), 1, b)


def _touched(samples: Samples, resolution: int) -> tuple[Int[Array, "r p"], Int[Array, " r"]]:
    """The first cell with a weight in each bin, and the most such cells in a bin of each RoI."""
    last = jnp.maximum(samples.per_bin - 1, 0)
    ends = jnp.stack([jnp.zeros_like(samples.per_bin), last], axis=1)
    ends = jnp.broadcast_to(ends[:, None], (len(ends), resolution, 2))
    cells = jnp.floor(_positions(samples, ends)) + jnp.array([0, 1], jnp.float32).reshape(1, 1, 2)
    limit = (samples.size - 1).astype(jnp.float32).reshape(-1, 1, 1)
    cells = jnp.fmin(jnp.fmax(cells, 0), limit).astype(jnp.int32)  # Unlike clip, takes NaN to 0.
    return cells[:, :, 0], (cells[:, :, 1] - cells[:, :, 0] + 1).max(axis=1)


def _weights(samples: Samples, cells: Int[Array, "r p"]) -> Float[Array, "r p"]:
    """The weight of one cell in each bin, summed over the samples of the bin.

    A sample at the centre of the cell adds 1, one at a distance of a cell adds 0.
    """
    count = samples.per_bin.reshape(-1, 1, 1)
    size = samples.size.astype(jnp.float32).reshape(-1, 1, 1)
    spacing = samples.bin_length.reshape(-1, 1, 1) / jnp.maximum(count, 1)
    centers = cells.astype(jnp.float32)[:, :, None]
    first = jnp.round((centers - 1 - _positions(samples, jnp.zeros_like(centers))) / spacing)
    first = jnp.fmax(jnp.fmin(first, count - 1), 0)
    index = first + jnp.arange(NUM_NEIGHBOURS, dtype=jnp.float32).reshape(1, 1, -1)
    position = _positions(samples, index)
    counts = (index < count) & (position >= -1) & (position <= size)  # False for NaN.
    distance = jnp.abs(jnp.clip(position, 0, size - 1) - centers)
    return jnp.where(counts, jnp.maximum(1 - distance, 0), 0).sum(axis=2)


def _sort_keys(rois: SampledRoIs, resolution: int) -> tuple[Int[Array, " r"], Int[Array, " r"]]:
    """Keys for `jnp.lexsort`: sorts RoIs by the number of rows, then of columns of their bins."""
    num_rows, num_columns = (
        _touched(samples, resolution)[1] for samples in (rois.rows, rois.columns)
    )
    return num_columns, num_rows
