"""RoIPool over a feature pyramid, by the exact rule of torchvision's C++ kernels: what RoIAlign was made to replace.

The corners of an RoI are rounded to whole cells, and so are the bounds of its bins; a bin is the maximum of its cells.
So features and boxes are out of step by up to half a cell, and the result changes in jumps as a box moves (Fast R-CNN,
section 2.1; the argument against it is in section 3 of Mask R-CNN).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops import adaptive_roi_align, roi_groups, roi_taps
from maskrcnn_jax.ops.roi_taps import Side

Pyramid = dict[int, Float[Array, "_h _w c"]]


class Bins(NamedTuple):
    """The cells of each bin along one axis: from ``start`` up to, but without, ``stop``."""

    start: Int[Array, "r p"]
    stop: Int[Array, "r p"]


class Regions(NamedTuple):
    """The bins of RoIs, in maps that lie row by row behind each other in one array of cells."""

    offsets: Int[Array, " r"]  # First cell of the map of each RoI.
    widths: Int[Array, " r"]  # Cells from one row of this map to the next.
    rows: Bins
    columns: Bins


class Maxima(NamedTuple):
    """The largest value of each bin and channel, and the cell that has it; -1 where there is none."""

    values: Float[Array, "r p p c"]
    cells: Int[Array, "r p p c"]


def multilevel_roi_pool(
    pyramid: Pyramid, boxes: Float[Array, "r 4"], canvas: Int[Array, "2"], *, resolution: int
) -> Float[Array, "r p p c"]:
    """Pools each box of one image from the level that fits its size.

    Args:
        pyramid: Feature maps of consecutive levels; the stride of level l is ``2**l``.
        boxes: In pixels of the padded image; boxes with coordinates that are not finite may pool zeros.
        canvas: Height and width of the padded image, in pixels. The maps end with it, rounded up to whole cells, though
            their arrays may be larger.

    Halves are rounded away from zero, boxes have at least one cell, and bins overlap where their bounds cut a cell.
    Bins beyond the map are zero. Differentiable in reverse mode by the features only: the gradient of a bin goes to its
    largest cell, of equal ones to the first, row by row. A NaN is never the largest.
    """
    rois = roi_taps.place(boxes, canvas, tuple(sorted(pyramid)))
    shapes = [pyramid[level].shape for level in sorted(pyramid)]
    rows, columns = _bins(rois.rows, resolution), _bins(rois.columns, resolution)
    return _pool(pyramid, Regions(*roi_taps.offsets(rois, shapes), rows, columns))


def _bins(side: Side, resolution: int) -> Bins:
    """Cuts a side, rounded to whole cells and with the last one, into overlapping bins of whole cells."""
    first, last = (jax.lax.round(x, jax.lax.RoundingMethod.AWAY_FROM_ZERO).reshape(-1, 1) for x in side[:2])
    # Products in float32, as in the kernels: here and there they round a bound up to one cell more.
    length = adaptive_roi_align.divide(jnp.maximum(last - first + 1, 1), jnp.float32(resolution))
    bins = jnp.arange(resolution, dtype=jnp.float32).reshape(1, -1)
    bounds = jnp.floor(bins * length) + first, jnp.ceil((bins + 1) * length) + first
    size = side.size.astype(jnp.float32).reshape(-1, 1)
    return Bins(*(jnp.fmin(jnp.fmax(x, 0), size).astype(jnp.int32) for x in bounds))  # Unlike clip, this takes a NaN.


@jax.custom_vjp
def _pool(pyramid: Pyramid, regions: Regions) -> Float[Array, "r p p c"]:
    return _maxima(pyramid, regions).values


def _forward(pyramid, regions):
    shapes = jax.tree.map(lambda x: x[:, :, :0], pyramid)  # The pyramid itself would be kept in memory.
    values, cells = _maxima(pyramid, regions)
    return values, (shapes, cells)


def _maxima(pyramid: Pyramid, regions: Regions) -> Maxima:
    """Looks at one cell of every bin after the other, for a group of RoIs with about as many cells at a time."""
    maps = [pyramid[level] for level in sorted(pyramid)]
    cells = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    num_rows, num_columns = ((bins.stop - bins.start).max(axis=1) for bins in (regions.rows, regions.columns))
    order = jnp.lexsort((num_columns, num_rows))
    return roi_groups.join(jax.lax.map(partial(_group_maxima, cells), roi_groups.split(regions, order)), order)


def _group_maxima(cells: Float[Array, "n c"], group: Regions) -> Maxima:
    rows, columns = group.rows, group.columns
    num_rows, num_columns = (roi_groups.batch_max((bins.stop - bins.start).max()) for bins in (rows, columns))
    offsets, widths = (x.reshape(-1, 1) for x in (group.offsets, group.widths))
    # Not constants: loops inside `shard_map` must start with values that vary as their results do.
    zeros = jnp.broadcast_to(rows.start[:, :, None, None] * 0, (*rows.start.shape, rows.start.shape[1], cells.shape[1]))
    lowest = Maxima(jnp.finfo(cells.dtype).min + zeros.astype(cells.dtype), zeros - 1)

    def visit_row(i: Array, best: Maxima) -> Maxima:
        row = rows.start + i

        def visit_column(j: Array, best: Maxima) -> Maxima:
            column = columns.start + j
            inside = (row < rows.stop)[:, :, None] & (column < columns.stop)[:, None]
            index = jnp.where(inside, (offsets + widths * row)[:, :, None] + column[:, None], 0)[..., None]
            values = cells[index.squeeze(3)]
            better = inside[..., None] & (values > best.values)
            return Maxima(jnp.where(better, values, best.values), jnp.where(better, index, best.cells))

        return jax.lax.fori_loop(0, num_columns, visit_column, best)

    best = jax.lax.fori_loop(0, num_rows, visit_row, lowest)
    empty = (rows.stop <= rows.start)[:, :, None, None] | (columns.stop <= columns.start)[:, None, :, None]
    return best._replace(values=jnp.where(empty, 0, best.values))


def _backward(residuals, gradient):
    pyramid, cells = residuals
    levels = sorted(pyramid)
    shapes = [(*pyramid[level].shape[:2], gradient.shape[-1]) for level in levels]
    sizes = [height * width for height, width, _ in shapes]
    # Not a constant: a scan inside `shard_map` must start with a value that varies as its result does.
    zero = (cells.sum() * 0).astype(jnp.float32)
    channels = jnp.arange(gradient.shape[-1]).reshape(1, 1, -1)

    def add_roi(total: Array, roi: tuple[Array, Array]) -> tuple[Array, None]:
        cells, gradient = roi
        return total.at[jnp.where(cells < 0, len(total), cells), channels].add(gradient, mode="drop"), None

    total = jnp.broadcast_to(zero, (sum(sizes), gradient.shape[-1]))
    total = jax.lax.scan(add_roi, total, (cells, gradient.astype(jnp.float32)))[0]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    maps = [part.reshape(shape) for part, shape in zip(jnp.split(total, ends), shapes, strict=True)]
    return {level: x.astype(gradient.dtype) for level, x in zip(levels, maps, strict=True)}, None


_pool.defvjp(_forward, _backward)
