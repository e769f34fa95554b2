"""RoIAlign that reads only the cells it needs, for devices that are good at gathers."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops.loops import varying_zero
from maskrcnn_jax.ops.roi_pooling import adaptive
from maskrcnn_jax.ops.roi_pooling.groups import pool_by_map
from maskrcnn_jax.ops.roi_pooling.placement import RoIs, map_offsets, split_cells
from maskrcnn_jax.ops.roi_pooling.taps import Rule, Taps, axis_taps

GROUP_SIZE = 16  # RoIs of one map that a CPU pools together; the last group of a map is filled up.


def pool(maps: list[Float[Array, "_h _w c"]], rois: RoIs, rule: Rule) -> Float[Array, "r p p c"]:
    """Pools each RoI from its map, in float32."""
    by_map, at_once = partial(_pool_by_map, rule=rule), partial(_pool_at_once, rule=rule)
    return jax.lax.platform_dependent(maps, rois, cpu=by_map, default=at_once)


def _pool_at_once(
    maps: list[Float[Array, "_h _w c"]], rois: RoIs, *, rule: Rule
) -> Float[Array, "r p p c"]:
    """Pools all RoIs at once, from all maps joined to one array of cells."""
    cells = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    shapes = [x.shape for x in maps]
    if rule.sampling_ratio == 0:
        return adaptive.pool(cells, _sampled(rois, shapes, rule), rule.resolution)
    return _sum_taps(cells, *_joined_taps(rois, shapes, rule))


def _pool_by_map(
    maps: list[Float[Array, "_h _w c"]], rois: RoIs, *, rule: Rule
) -> Float[Array, "r p p c"]:
    """Pools from one map after the other: on a CPU, joining the maps takes as long as pooling."""
    shapes = [x.shape for x in maps]
    cells = [x.reshape(-1, x.shape[-1]) for x in maps]
    if rule.sampling_ratio == 0:
        sampled = _sampled(rois, shapes, rule)
        return adaptive.pool_by_map(cells, rois.maps, sampled, rule.resolution)

    def pool_group(cells: Array, offsets: Array, taps: tuple[Taps, Taps]) -> Array:
        rows, columns = taps
        return _sum_taps(cells, _move(rows, offsets), columns)

    taps = _map_taps(rois, shapes, rule)
    settings = {"resolution": rule.resolution, "group_size": GROUP_SIZE}
    return pool_by_map(pool_group, cells, rois.maps, taps, **settings)


def transpose(
    gradient: Float[Array, "r p p c"], shapes: list[tuple[int, ...]], rois: RoIs, rule: Rule
) -> list[Float[Array, "_h _w c"]]:
    """The transpose of `pool`, in float32: adds the gradient of each RoI to the cells it read.

    Args:
        gradient: The cotangent of the pooled features.
        shapes: Shapes ``(h, w, c)`` of the maps.
        rois: The RoIs that were pooled.
        rule: The rule they were pooled by.
    """
    num_cells = sum(height * width for height, width, _ in shapes)
    zero = varying_zero(rois.maps, jnp.float32)
    # Without this barrier, XLA allocates the zeros long before the gradient exists.
    zero, gradient = jax.lax.optimization_barrier((zero, gradient))
    total = jnp.broadcast_to(zero, (num_cells, gradient.shape[-1]))
    if rule.sampling_ratio == 0:
        total = adaptive.add_gradient(total, gradient, _sampled(rois, shapes, rule))
    else:
        arguments = total, gradient, *_joined_taps(rois, shapes, rule)
        total = jax.lax.platform_dependent(*arguments, cpu=_add_by_roi, default=_add_at_once)
    return split_cells(total, shapes)


def _sampled(rois: RoIs, shapes: list[tuple[int, ...]], rule: Rule) -> adaptive.SampledRoIs:
    axis_samples = partial(adaptive.axis_samples, resolution=rule.resolution, aligned=rule.aligned)
    offsets, widths = map_offsets(rois, shapes)
    rows, columns = axis_samples(*rois.rows), axis_samples(*rois.columns)
    return adaptive.SampledRoIs(offsets, widths, rows, columns)


def _map_taps(rois: RoIs, shapes: list[tuple[int, ...]], rule: Rule) -> tuple[Taps, Taps]:
    """Taps of the rows, each as the first cell of its row, and of the columns.

    Cells count from the start of the RoI's own map.
    """
    rows, (_, widths) = axis_taps(rois.rows, rule), map_offsets(rois, shapes)
    first_cells = rows.cells * widths.reshape(-1, 1, 1)
    return rows._replace(cells=first_cells), axis_taps(rois.columns, rule)


def _joined_taps(rois: RoIs, shapes: list[tuple[int, ...]], rule: Rule) -> tuple[Taps, Taps]:
    """`_map_taps` for all maps joined to one array of cells."""
    (rows, columns), (offsets, _) = _map_taps(rois, shapes, rule), map_offsets(rois, shapes)
    return _move(rows, offsets), columns


def _move(rows: Taps, offsets: Int[Array, " r"]) -> Taps:
    return rows._replace(cells=rows.cells + offsets.reshape(-1, 1, 1))


# Compiled as a part of its caller; `jit` traces it once for all maps and groups of one shape.
@partial(jax.jit, inline=True)
def _sum_taps(cells: Float[Array, "n c"], rows: Taps, columns: Taps) -> Float[Array, "r p p c"]:
    num_rois, resolution, num_taps = rows.cells.shape
    pooled = jnp.zeros((num_rois, resolution, resolution, cells.shape[1]), jnp.float32)
    taps_of_rows = _unstack(rows, 2)
    taps_of_columns = _unstack(columns, 1)
    # Unrolled, so that XLA adds each cell as it reads it instead of storing all of them first.
    for row in taps_of_rows:
        for column in taps_of_columns:
            weight = (row.weights * column.weights)[..., None]
            pooled += weight * cells[row.cells + column.cells].astype(jnp.float32)
    return pooled


def _unstack(taps: Taps, axis: int) -> list[Taps]:
    """Each tap of an axis, with a new axis of length 1 for the bins of the other axis."""
    unstacked = jax.tree.map(lambda x: jnp.unstack(jnp.expand_dims(x, axis), axis=-1), taps)
    return [Taps(*tap) for tap in zip(*unstacked, strict=True)]


def _add_by_roi(total: Array, gradient: Array, rows: Taps, columns: Taps) -> Array:
    """Adds one RoI after the other: on a CPU four times as fast, as its cells fit into a cache."""

    def add_roi(total, roi):
        return _add_at_once(total, *jax.tree.map(lambda x: x[None], roi)), None

    return jax.lax.scan(add_roi, total, (gradient, rows, columns))[0]


def _add_at_once(total: Array, gradient: Array, rows: Taps, columns: Taps) -> Array:
    """Adds all taps of all RoIs in one scatter, whose operands a GPU computes as it adds them."""
    index = rows.cells[:, :, :, None, None] + columns.cells[:, None, None]  # [r, p, t, p, t]
    weight = rows.weights[:, :, :, None, None] * columns.weights[:, None, None]
    return total.at[index].add(weight[..., None] * gradient[:, :, None, :, None])
