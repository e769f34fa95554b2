"""RoIAlign as kernels for TPUs that hold the maps of an image in vector memory (VMEM).

A kernel keeps 128 channels of all maps of one image in VMEM and visits the RoIs one by one, in two
steps:

1. Rows. A row of bins is the weighted sum of a few rows of the map, for the columns that the RoI
   spans. The sums go to ``bands``, where all rows of bins at one column are neighbours.
2. Columns. A column of bins is the weighted sum of a few columns of ``bands``.

The transpose goes backwards: it spreads the gradient along the columns into ``bands``, and adds
weighted rows of it to the gradient of the map. So each map is read once, each gradient is written
once, and nothing is gathered from or scattered to the main memory. Taps are addresses, so they lie
in scalar memory (SMEM). Weights and sums are float32.

`einsum` takes over where the number of samples is adaptive or the maps do not fit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops.roi_pooling import einsum
from maskrcnn_jax.ops.roi_pooling.placement import RoIs
from maskrcnn_jax.ops.roi_pooling.taps import Rule, Taps, axis_taps
from maskrcnn_jax.ops.rounding import ceil_div

LANES = 128  # Channels of a vector register.
SUBLANES = 8  # Cells of a vector register in float32. Loads and stores begin at multiples of it.
STEP = 32  # Columns that a kernel visits at once. More would hide latency; few RoIs are wider.
GROUP_SIZE = 64  # RoIs per step of the grid. Their bins and taps must fit as well.
MAX_TAPS = 64  # Per axis of an RoI: the code of all of them is unrolled.
# Each cell and channel takes 8 bytes: two buffers in float32, or two buffers in bfloat16 and, in
# the transpose, a sum in float32. Bins and scratch take up to 17 MiB more.
MAX_CELLS = 104 * 2**20 // (8 * LANES)
VMEM_BYTES = 122 * 2**20  # A v5e and a v6e have 128 MiB.
NUM_HEADERS = 3  # Scalars of an RoI before its taps: its map, first column, number of steps.


def pool(maps: list[Float[Array, "_h _w c"]], rois: RoIs, rule: Rule) -> Float[Array, "r p p c"]:
    """Pools each RoI from its map; the result has the dtype of the maps."""
    shapes = [x.shape for x in maps]
    if not _is_supported(rois, rule, shapes, maps[0].dtype):
        return einsum.pool(maps, rois, rule)
    pooled = len(rois.maps), rule.resolution, rule.resolution, shapes[0][2]
    scratch = _scratch(shapes, rule)
    return _call(partial(_pool_kernel, rule=rule), rois, rule, maps, [pooled], scratch)[0]


def transpose(
    gradient: Float[Array, "r p p c"], shapes: list[tuple[int, ...]], rois: RoIs, rule: Rule
) -> list[Float[Array, "_h _w c"]]:
    """The transpose of `pool`, summed in float32; the result has the dtype of the gradient.

    Args:
        gradient: The cotangent of the pooled features.
        shapes: Shapes ``(h, w, c)`` of the maps.
        rois: The RoIs that were pooled.
        rule: The rule they were pooled by.
    """
    if not _is_supported(rois, rule, shapes, gradient.dtype):
        return einsum.transpose(gradient, shapes, rois, rule)
    scratch = _scratch(shapes, rule)
    if gradient.dtype != jnp.float32:  # Maps in float32 are summed where they are written.
        scratch += [pltpu.VMEM(_block(shape), jnp.float32) for shape in shapes]
    kernel = partial(_transpose_kernel, num_maps=len(shapes), rule=rule)
    return _call(kernel, rois, rule, [gradient], shapes, scratch)


def _pool_kernel(num_rois: Array, cells: Any, weights: Any, *refs: Any, rule: Rule) -> None:
    *maps, pooled, bands, bins = refs
    resolution, num_taps, height = rule.resolution, 2 * rule.sampling_ratio, _height(rule)

    @pl.loop(0, num_rois)
    def _(r: Array) -> None:
        tap = partial(_tap, cells, weights, r, num_taps)

        def sum_rows(features: Any, x: Array) -> None:
            for p in range(resolution):
                total = jnp.zeros((STEP, LANES), jnp.float32)
                for t in range(num_taps):
                    row, weight = tap(p, t)
                    total += weight * features[row, pl.ds(x, STEP), :].astype(jnp.float32)
                bands[pl.ds(x * height + p, STEP, height), :] = total

        _on_map(cells, r, maps, sum_rows)
        for q in range(resolution):
            total = jnp.zeros((height, LANES), jnp.float32)
            for t in range(num_taps):
                column, weight = tap(resolution + q, t)
                total += weight * bands[_band(column, height), :]
            bins[pl.ds(q, height, height), :] = total
        for p in range(resolution):
            pooled[r, p] = bins[pl.ds(p * height, resolution), :].astype(pooled.dtype)


def _transpose_kernel(
    num_rois: Array, cells: Any, weights: Any, *refs: Any, num_maps: int, rule: Rule
) -> None:
    gradient, *refs = refs
    maps, (bands, bins, *totals) = refs[:num_maps], refs[num_maps:]
    totals = totals or maps
    resolution, num_taps, height = rule.resolution, 2 * rule.sampling_ratio, _height(rule)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for total in totals:
            _write_rows(total, lambda y, total=total: jnp.zeros(total.shape[1:], jnp.float32))

    @pl.loop(0, num_rois)
    def _(r: Array) -> None:
        tap = partial(_tap, cells, weights, r, num_taps)

        def clear(x: Array) -> None:
            span = pl.ds(x * height, STEP * height)
            bands[span, :] = jnp.zeros((STEP * height, LANES), jnp.float32)

        def add_rows(total: Any, x: Array) -> None:
            for p in range(resolution):
                band = bands[pl.ds(x * height + p, STEP, height), :]
                for s in range(rule.sampling_ratio):
                    rows = tap(p, rule.sampling_ratio + s), tap(p, s)
                    _add(total, [((row, pl.ds(x, STEP)), weight * band) for row, weight in rows])

        _for_each_step(cells, r, clear)
        for p in range(resolution):
            bins[pl.ds(p * height, resolution), :] = gradient[r, p].astype(jnp.float32)
        for q in range(resolution):
            bin_column = bins[pl.ds(q, height, height), :]
            for s in range(rule.sampling_ratio):
                columns = tap(resolution + q, rule.sampling_ratio + s), tap(resolution + q, s)
                _add(bands, [(_band(x, height), weight * bin_column) for x, weight in columns])
        _on_map(cells, r, totals, add_rows)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        for total, x in zip(totals, maps, strict=True):
            if total is not x:
                _write_rows(x, lambda y, total=total, x=x: total[y].astype(x.dtype))


def _write_rows(x: Any, row: Callable[[Array], Array]) -> None:
    @pl.loop(0, len(x))
    def _(y: Array) -> None:
        x[y] = row(y)


def _for_each_step(cells: Any, r: Array, visit: Callable[[Array], None]) -> None:
    """Calls ``visit(x)`` for every `STEP` columns from x of the span of an RoI."""

    @pl.loop(0, cells[r, 2])
    def _(step: Array) -> None:
        visit(pl.multiple_of(cells[r, 1] + step * STEP, SUBLANES))


def _on_map(cells: Any, r: Array, maps: Sequence[Any], visit: Callable[[Any, Array], None]) -> None:
    """Calls ``visit(map, x)`` for each step, with the map of the RoI."""
    for i, x in enumerate(maps):
        pl.when(cells[r, 0] == i)(partial(_for_each_step, cells, r, partial(visit, x)))


def _tap(
    cells: Any, weights: Any, r: Array, num_taps: int, line: int, t: int
) -> tuple[Array, Array]:
    """Cell and weight of tap t of a row of bins, or of a column; columns count on from the rows."""
    i = line * num_taps + t
    return cells[r, NUM_HEADERS + i], weights[r, i]


def _add(total: Any, terms: list[tuple[Any, Array]]) -> None:
    """Adds the terms of a sample to its upper and its lower cell.

    Accesses to cells that the compiler does not know run one after the other. Reading both cells
    before writing them halves this chain. If both are the same cell, the term of the upper one is
    zero, so it is written first.
    """
    sums = [(index, total[index] + term) for index, term in terms]
    for index, value in sums:
        total[index] = value


def _band(column: Array, height: int) -> Any:
    return pl.ds(pl.multiple_of(column * height, SUBLANES), height)


def _height(rule: Rule) -> int:
    """Rows of bins, filled up to whole registers."""
    return ceil_div(rule.resolution, SUBLANES) * SUBLANES


def _block(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape of a map in VMEM: the last step of an RoI may reach beyond the map."""
    height, width, _ = shape
    return height, (ceil_div(width, SUBLANES) - 1) * SUBLANES + STEP, LANES


def _scratch(shapes: list[tuple[int, ...]], rule: Rule) -> list[Any]:
    """``bands``, and ``bins``: the rows of bins of one RoI below each other."""
    height, width = _height(rule), max(_block(shape)[1] for shape in shapes)
    return [pltpu.VMEM((size * height, LANES), jnp.float32) for size in (width, height)]


def _is_supported(rois: RoIs, rule: Rule, shapes: list[tuple[int, ...]], dtype: Any) -> bool:
    num_taps = 2 * rule.resolution * rule.sampling_ratio  # 0 if adaptive.
    num_cells = sum(height * width for height, width, _ in map(_block, shapes))
    has_room = 0 < num_taps <= MAX_TAPS and num_cells <= MAX_CELLS
    return has_room and len(rois.maps) > 0 and dtype in (jnp.float32, jnp.bfloat16)


def _scalars(rois: RoIs, rule: Rule) -> tuple[Int[Array, "r k"], Float[Array, "r n"]]:
    """The taps of each RoI, rows first: cells, behind the headers, and weights."""
    rows, _, _ = _within_span(axis_taps(rois.rows, rule))
    columns, first, last = _within_span(axis_taps(rois.columns, rule))
    first = first // SUBLANES * SUBLANES
    headers = jnp.stack([rois.maps, first, ceil_div(last + 1 - first, STEP)], axis=1)
    flat = jax.tree.map(lambda x: x.reshape(len(x), -1), (rows, columns))
    cells = jnp.concatenate([headers, *(taps.cells for taps in flat)], axis=1)
    return cells, jnp.concatenate([taps.weights for taps in flat], axis=1)


def _within_span(taps: Taps) -> tuple[Taps, Int[Array, " r"], Int[Array, " r"]]:
    """The first and the last cell with a weight; taps without one are moved to the first.

    A sample outside the map has such taps at cell 0, which would widen the span.
    """
    has_weight = taps.weights > 0
    last = jnp.where(has_weight, taps.cells, 0).max(axis=(1, 2))
    first = jnp.where(has_weight, taps.cells, last.reshape(-1, 1, 1)).min(axis=(1, 2))
    cells = jnp.where(has_weight, taps.cells, first.reshape(-1, 1, 1))
    return taps._replace(cells=cells), first, last


def _call(
    kernel: Callable[..., None],
    rois: RoIs,
    rule: Rule,
    inputs: list[Array],
    shapes: list[tuple[int, ...]],
    scratch: list[Any],
) -> list[Array]:
    """Runs a kernel for each block of channels and each group of RoIs.

    Inputs and outputs are maps ``[h, w, c]`` or bins ``[r, p, p, c]`` of one dtype.
    """
    scalars = _scalars(rois, rule)
    num_rois, num_channels = len(rois.maps), shapes[0][-1]
    size = min(GROUP_SIZE, num_rois)
    # Inside `shard_map` the results vary over the devices as the RoIs do.
    axes = jax.typeof(scalars[0]).manual_axis_type

    def spec(shape: tuple[int, ...]) -> pl.BlockSpec:
        if len(shape) == 3:
            return pl.BlockSpec(_block(shape), lambda block, group: (0, 0, block))
        return pl.BlockSpec((size, *shape[1:3], LANES), lambda block, group: (group, 0, 0, block))

    def scalar_spec(x: Array) -> pl.BlockSpec:
        block = size, x.shape[1]
        return pl.BlockSpec(block, lambda block, group: (group, 0), memory_space=pltpu.SMEM)

    def body(*refs: Any) -> None:
        kernel(jnp.minimum(size, num_rois - pl.program_id(1) * size), *refs)

    run = pl.pallas_call(
        body,
        grid=(ceil_div(num_channels, LANES), ceil_div(num_rois, size)),
        in_specs=[*map(scalar_spec, scalars), *(spec(x.shape) for x in inputs)],
        out_specs=[*map(spec, shapes)],
        out_shape=[
            jax.ShapeDtypeStruct(shape, inputs[0].dtype, manual_axis_type=axes) for shape in shapes
        ],
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=VMEM_BYTES),
        name="roi_align",
    )
    return list(run(*scalars, *inputs))
