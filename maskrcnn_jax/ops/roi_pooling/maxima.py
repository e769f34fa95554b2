"""RoIPool over a feature pyramid, by the exact rule of torchvision's C++ kernels.

RoIPool is the predecessor of RoIAlign. The corners of an RoI are rounded to whole cells, and so are
the bounds of its bins; a bin is the maximum of its cells (Fast R-CNN, section 2.1). So features and
boxes are misaligned by up to half a cell, and the result changes in jumps as a box moves (section 3
of Mask R-CNN).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops.loops import batch_max, varying_zero
from maskrcnn_jax.ops.roi_pooling import groups
from maskrcnn_jax.ops.roi_pooling.adaptive import divide
from maskrcnn_jax.ops.roi_pooling.placement import Side, map_offsets, place, split_cells
from maskrcnn_jax.structures import ImagePyramid


class Bins(NamedTuple):
    """The cells of each bin along one axis: ``start <= cell < stop``."""

    start: Int[Array, "r p"]
    stop: Int[Array, "r p"]


class Regions(NamedTuple):
    """The bins of RoIs, on maps that are joined, row by row, to one array of cells."""

    offsets: Int[Array, " r"]  # First cell of the map of each RoI.
    widths: Int[Array, " r"]  # Cells from one row of this map to the next.
    rows: Bins
    columns: Bins


class Maxima(NamedTuple):
    """The largest value of each bin and channel, and its cell; -1 for a bin without cells."""

    values: Float[Array, "r p p c"]
    cells: Int[Array, "r p p c"]


def multilevel_roi_pool(
    pyramid: ImagePyramid,
    boxes: Float[Array, "r 4"],
    canvas: Int[Array, "2"],
    *,
    resolution: int,
    level_rule: str = "torchvision",
) -> Float[Array, "r p p c"]:
    """Pools each box of one image from the level that fits its size.

    Halves are rounded away from zero, boxes have at least one cell, and bins overlap where their
    bounds cut a cell. Bins beyond the map are zero. Only the features get a gradient, in reverse
    mode: the gradient of a bin goes to its largest cell, and to the first of equal ones, row by
    row. A NaN is never the largest.

    Args:
        pyramid: Feature maps of consecutive levels; the stride of level l is ``2**l``.
        boxes: In pixels of the padded image; boxes with coordinates that are not finite may pool
            zeros.
        canvas: Height and width of the padded image, in pixels. The maps end with it, rounded up to
            whole cells, though their arrays may be larger.
        resolution: Bins per axis.
        level_rule: As in `placement.assign_levels`.
    """
    rois = place(boxes, canvas, tuple(sorted(pyramid)), level_rule)
    shapes = [pyramid[level].shape for level in sorted(pyramid)]
    rows, columns = _bins(rois.rows, resolution), _bins(rois.columns, resolution)
    return _pool(pyramid, Regions(*map_offsets(rois, shapes), rows, columns))


def _bins(side: Side, resolution: int) -> Bins:
    """Cuts a side, rounded to whole cells and including the last, into bins that may overlap."""
    first, last = (
        jax.lax.round(x, jax.lax.RoundingMethod.AWAY_FROM_ZERO).reshape(-1, 1) for x in side[:2]
    )
    # Products in float32, as in the kernels: rounding moves some bounds up by one cell.
    length = divide(jnp.maximum(last - first + 1, 1), jnp.float32(resolution))
    bins = jnp.arange(resolution, dtype=jnp.float32).reshape(1, -1)
    start = jnp.floor(bins * length) + first
    stop = jnp.ceil((bins + 1) * length) + first
    size = side.size.astype(jnp.float32).reshape(-1, 1)

    def clip(bound: Array) -> Array:
        return jnp.fmin(jnp.fmax(bound, 0), size).astype(jnp.int32)  # NaN to 0, unlike jnp.clip.

    return Bins(clip(start), clip(stop))


@jax.custom_vjp
def _pool(pyramid: ImagePyramid, regions: Regions) -> Float[Array, "r p p c"]:
    return _maxima(pyramid, regions).values


def _forward(pyramid, regions):
    # The backward pass needs the shapes only: the pyramid as a residual would stay in memory.
    shapes = jax.tree.map(lambda x: x[:, :, :0], pyramid)
    values, cells = _maxima(pyramid, regions)
    return values, (shapes, cells)


def _maxima(pyramid: ImagePyramid, regions: Regions) -> Maxima:
    """The maxima of all RoIs, computed for groups of RoIs with about as many cells per bin."""
    maps = [pyramid[level] for level in sorted(pyramid)]
    cells = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    num_rows, num_columns = (
        (bins.stop - bins.start).max(axis=1) for bins in (regions.rows, regions.columns)
    )
    order = jnp.lexsort((num_columns, num_rows))
    maxima = jax.lax.map(partial(_group_maxima, cells), groups.split(regions, order))
    return groups.join(maxima, order)


def _group_maxima(cells: Float[Array, "n c"], group: Regions) -> Maxima:
    """Visits one cell of every bin per step."""
    rows, columns = group.rows, group.columns
    num_rows, num_columns = (batch_max((bins.stop - bins.start).max()) for bins in (rows, columns))
    offsets, widths = (x.reshape(-1, 1) for x in (group.offsets, group.widths))
    num_rois, resolution = rows.start.shape
    shape = num_rois, resolution, resolution, cells.shape[1]
    zeros = jnp.broadcast_to(varying_zero(rows.start, jnp.int32), shape)
    lowest = Maxima(jnp.finfo(cells.dtype).min + zeros.astype(cells.dtype), zeros - 1)

    def visit_row(i: Array, best: Maxima) -> Maxima:
        row = rows.start + i

        def visit_column(j: Array, best: Maxima) -> Maxima:
            column = columns.start + j
            inside = (row < rows.stop)[:, :, None] & (column < columns.stop)[:, None]
            index = (offsets + widths * row)[:, :, None] + column[:, None]
            index = jnp.where(inside, index, 0)[..., None]
            values = cells[index.squeeze(3)]
            better = inside[..., None] & (values > best.values)
            return Maxima(
                jnp.where(better, values, best.values), jnp.where(better, index, best.cells)
            )

        return jax.lax.fori_loop(0, num_columns, visit_column, best)

    best = jax.lax.fori_loop(0, num_rows, visit_row, lowest)
    no_rows, no_columns = rows.stop <= rows.start, columns.stop <= columns.start
    empty = no_rows[:, :, None, None] | no_columns[:, None, :, None]
    return best._replace(values=jnp.where(empty, 0, best.values))


def _backward(residuals, gradient):
    pyramid, cells = residuals
    levels = sorted(pyramid)
    shapes = [(*pyramid[level].shape[:2], gradient.shape[-1]) for level in levels]
    num_cells = sum(height * width for height, width, _ in shapes)
    channels = jnp.arange(gradient.shape[-1]).reshape(1, 1, -1)

    def add_roi(total: Array, roi: tuple[Array, Array]) -> tuple[Array, None]:
        cells, gradient = roi
        cells = jnp.where(cells < 0, len(total), cells)  # Out of bounds, so dropped.
        return total.at[cells, channels].add(gradient, mode="drop"), None

    zero = varying_zero(cells, jnp.float32)
    total = jnp.broadcast_to(zero, (num_cells, gradient.shape[-1]))
    total = jax.lax.scan(add_roi, total, (cells, gradient.astype(jnp.float32)))[0]
    maps = split_cells(total, shapes)
    return {level: x.astype(gradient.dtype) for level, x in zip(levels, maps, strict=True)}, None


_pool.defvjp(_forward, _backward)
