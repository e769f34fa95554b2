"""RoIAlign over a feature pyramid, by the exact rule of torchvision's and Detectron2's C++ kernels.

Each RoI is cut into ``resolution x resolution`` bins, and a bin is the mean of ``sampling_ratio x sampling_ratio``
bilinear samples. A sample is a weighted sum of four cells, the product of two cells per axis. So pooling is a sparse
linear map of the features, and its indices and weights, the taps, come from the boxes alone. Where the number of
samples depends on the size of each RoI, `adaptive_roi_align` takes over.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops import adaptive_roi_align


class Taps(NamedTuple):
    """Cells and their weights along one axis; ``t`` counts both neighbours of every sample of a bin."""

    cells: Int[Array, "r p t"]
    weights: Float[Array, "r p t"]


def multilevel_roi_align(
    pyramid: dict[int, Float[Array, "_h _w c"]],
    boxes: Float[Array, "r 4"],
    canvas: Int[Array, "2"],
    *,
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Array, "r p p c"]:
    """Pools each box of one image from the level that fits its size.

    Args:
        pyramid: Feature maps of consecutive levels; the stride of level l is ``2**l``.
        boxes: In pixels of the padded image; boxes with coordinates that are not finite may pool zeros.
        canvas: Height and width of the padded image, in pixels. The maps end with it, rounded up to whole cells, though
            their arrays may be larger.
        sampling_ratio: Samples per bin and axis; 0 for ``ceil(roi_size / resolution)``, the size in cells.
        aligned: Correct to half a pixel, as Detectron2's ROIAlignV2. False is torchvision's rule: half a cell off, and
            boxes of at least one cell.

    Samples more than a cell outside the map are zero. Differentiable in reverse mode by the features only; weights and
    sums are float32 whatever the dtype of the features.

    Raises:
        ValueError: If ``sampling_ratio`` is negative.
    """
    if sampling_ratio < 0:
        raise ValueError(
            f"sampling_ratio must be positive, or 0 for an adaptive number of samples; got {sampling_ratio}"
        )
    levels = tuple(sorted(pyramid))
    slot = assign_levels(boxes, levels) - levels[0]
    stride = jnp.array([2**level for level in levels])[slot]
    extent = -(-canvas.reshape(2, 1) // stride.reshape(1, -1))  # [2, r]
    x0, y0, x1, y1 = boxes.T / stride.astype(jnp.float32).reshape(1, -1)
    shapes = [pyramid[level].shape for level in levels]
    widths = jnp.array([w for _, w, _ in shapes])[slot]
    offsets = jnp.array([sum(h * w for h, w, _ in shapes[:i]) for i in range(len(shapes))])[slot]
    cells = jnp.concatenate([pyramid[level].reshape(-1, pyramid[level].shape[-1]) for level in levels])

    if sampling_ratio == 0:
        axis_samples = partial(adaptive_roi_align.axis_samples, resolution=resolution, aligned=aligned)
        rows, columns = axis_samples(y0, y1, extent[0]), axis_samples(x0, x1, extent[1])
        rois = adaptive_roi_align.RoIs(offsets, widths, rows, columns)
        return adaptive_roi_align.pool(cells, rois, resolution).astype(cells.dtype)
    rows = axis_taps(y0, y1, extent[0], resolution, sampling_ratio, aligned)
    columns = axis_taps(x0, x1, extent[1], resolution, sampling_ratio, aligned)
    rows = rows._replace(cells=rows.cells * widths.reshape(-1, 1, 1) + offsets.reshape(-1, 1, 1))
    return _pool(cells, rows, columns)


def assign_levels(boxes: Float[Array, "r 4"], levels: tuple[int, ...]) -> Int[Array, " r"]:
    """Eq. 1 of FPN: a box with the area of 224 x 224 pixels goes to level 4, of half that side to level 3."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # The epsilon decides for sides within rounding of 112, 224, 448: torchvision adds it here, Detectron2 in the log.
    level = jnp.floor(4 + jnp.log2(jnp.sqrt(area) / 224) + 1e-6)
    # Unlike clip, fmax takes a NaN (a negative area) to the finest level.
    return jnp.fmin(jnp.fmax(level, min(levels)), max(levels)).astype(jnp.int32)


def axis_taps(
    start: Float[Array, " r"],
    stop: Float[Array, " r"],
    size: Int[Array, " r"],
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Taps:
    """Cells under the samples between ``start`` and ``stop`` on a map of ``size`` cells, along one axis."""
    length = stop - start
    if aligned:
        start = start - 0.5
    else:
        length = jnp.maximum(length, 1)
    start, length, size = (x.reshape(-1, 1, 1) for x in (start, length, size))
    bins = jnp.arange(resolution).reshape(1, -1, 1)
    samples = (jnp.arange(sampling_ratio) + 0.5).reshape(1, 1, -1)
    width = length / resolution
    position = start + bins * width + samples * width / sampling_ratio  # [r, p, s]
    inside = (position >= -1) & (position <= size)  # False for NaN.
    position = jnp.where(inside, jnp.clip(position, 0, size - 1), 0)
    low = position.astype(jnp.int32)
    fraction = position - low
    high = jnp.minimum(low + 1, size - 1)
    weights = jnp.concatenate([1 - fraction, fraction], axis=-1)
    weights *= jnp.concatenate([inside, inside], axis=-1) / sampling_ratio
    return Taps(jnp.concatenate([low, high], axis=-1), weights)


@jax.custom_vjp
def _pool(cells: Float[Array, "n c"], rows: Taps, columns: Taps) -> Float[Array, "r p p c"]:
    """Weighted sums of cells. Unrolled, so that XLA adds each cell as it reads it instead of storing all first."""
    pooled = jnp.zeros((*rows.cells.shape[:2], columns.cells.shape[1], cells.shape[1]), jnp.float32)
    for i in range(rows.cells.shape[2]):
        for j in range(columns.cells.shape[2]):
            index = rows.cells[:, :, None, i] + columns.cells[:, None, :, j]
            weight = rows.weights[:, :, None, i] * columns.weights[:, None, :, j]
            pooled += weight[..., None] * cells[index].astype(jnp.float32)
    return pooled.astype(cells.dtype)


def _pool_forward(cells, rows, columns):
    length = cells[:, :0]  # All the backward pass needs of them; the pyramid itself would be kept in memory.
    return _pool(cells, rows, columns), (length, rows, columns)


def _pool_backward(residuals, gradient):
    """Adds the gradient of each RoI to the cells it was pooled from, in float32."""
    cells, rows, columns = residuals
    # Not a constant: a scan inside `shard_map` must start with a value that varies as its result does.
    zero = (rows.cells.sum() * 0).astype(jnp.float32)
    total = jnp.broadcast_to(zero, (cells.shape[0], gradient.shape[-1]))
    arguments = total, gradient.astype(jnp.float32), rows, columns
    total = jax.lax.platform_dependent(*arguments, cpu=_add_by_roi, default=_add_by_tap)
    return total.astype(gradient.dtype), None, None


def _add_by_roi(total, gradient, rows, columns):
    """One RoI after the other: what one touches fits into a cache, four times as fast on a CPU as `_add_by_tap`."""

    def add_roi(total, roi):
        gradient, rows, columns = roi
        index = rows.cells[:, :, None, None] + columns.cells[None, None]  # [p, t, p, t]
        weight = rows.weights[:, :, None, None] * columns.weights[None, None]
        return total.at[index].add(weight[..., None] * gradient[:, None, :, None]), None

    return jax.lax.scan(add_roi, total, (gradient, rows, columns))[0]


def _add_by_tap(total, gradient, rows, columns):
    """All RoIs at once, for machines that work in parallel."""
    for i in range(rows.cells.shape[2]):
        for j in range(columns.cells.shape[2]):
            index = rows.cells[:, :, None, i] + columns.cells[:, None, :, j]
            weight = rows.weights[:, :, None, i] * columns.weights[:, None, :, j]
            total = total.at[index].add(weight[..., None] * gradient)
    return total


_pool.defvjp(_pool_forward, _pool_backward)
