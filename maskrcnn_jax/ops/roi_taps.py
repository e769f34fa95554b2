"""Where RoIAlign samples a map: along one axis at a time, by the exact rule of the C++ kernels.

A bilinear sample is a weighted sum of four cells, the product of two cells per axis, and so is the mean of all samples
of a bin. What is here holds for rows and for columns; `adaptive_roi_align` does the same where the number of samples
depends on the size of each RoI.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops import adaptive_roi_align


class Rule(NamedTuple):
    """What RoIAlign does: bins per axis, samples per bin and axis (0 for adaptive), half a cell's correction or not."""

    resolution: int
    sampling_ratio: int
    aligned: bool


class Side(NamedTuple):
    """Top and bottom, or left and right, of each RoI in cells of its map, which has ``size`` of them."""

    start: Float[Array, " r"]
    stop: Float[Array, " r"]
    size: Int[Array, " r"]


class RoIs(NamedTuple):
    """The RoIs of one image, each on the map it is pooled from."""

    maps: Int[Array, " r"]  # Counted from the finest.
    rows: Side
    columns: Side


class Taps(NamedTuple):
    """Cells and their weights along one axis; ``t`` counts both neighbours of every sample of a bin."""

    cells: Int[Array, "r p t"]
    weights: Float[Array, "r p t"]


def place(boxes: Float[Array, "r 4"], canvas: Int[Array, "2"], levels: tuple[int, ...]) -> RoIs:
    """Boxes in pixels to RoIs in cells; the maps end with the canvas, rounded up to whole cells."""
    level = assign_levels(boxes, levels)
    stride = 2**level
    rows, columns = -(-canvas.reshape(2, 1) // stride.reshape(1, -1))
    x0, y0, x1, y1 = boxes.T / stride.astype(jnp.float32).reshape(1, -1)
    return RoIs(level - levels[0], Side(y0, y1, rows), Side(x0, x1, columns))


def assign_levels(boxes: Float[Array, "r 4"], levels: tuple[int, ...]) -> Int[Array, " r"]:
    """Eq. 1 of FPN: a box with the area of 224 x 224 pixels goes to level 4, of half that side to level 3."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # The epsilon decides for sides within rounding of 112, 224, 448: torchvision adds it here, Detectron2 in the log.
    level = jnp.floor(4 + jnp.log2(jnp.sqrt(area) / 224) + 1e-6)
    # Unlike clip, fmax takes a NaN (a negative area) to the finest level.
    return jnp.fmin(jnp.fmax(level, min(levels)), max(levels)).astype(jnp.int32)


def offsets(rois: RoIs, shapes: list[tuple[int, ...]]) -> tuple[Int[Array, " r"], Int[Array, " r"]]:
    """Of the maps laid out behind each other, row by row: the first cell and the width of each RoI's."""
    offsets = jnp.array([sum(h * w for h, w, _ in shapes[:i]) for i in range(len(shapes))])
    return offsets[rois.maps], jnp.array([w for _, w, _ in shapes])[rois.maps]


def axis_taps(side: Side, rule: Rule) -> Taps:
    """Cells under the samples of each bin, for a fixed number of samples."""
    start, stop, size = (x.reshape(-1, 1, 1) for x in side)
    length = stop - start
    if rule.aligned:
        start = start - 0.5
    else:
        length = jnp.maximum(length, 1)
    bins = jnp.arange(rule.resolution).reshape(1, -1, 1)
    samples = (jnp.arange(rule.sampling_ratio) + 0.5).reshape(1, 1, -1)
    width = length / rule.resolution
    position = start + bins * width + samples * width / rule.sampling_ratio  # [r, p, s]
    inside = (position >= -1) & (position <= size)  # False for NaN.
    position = jnp.where(inside, jnp.clip(position, 0, size - 1), 0)
    low = position.astype(jnp.int32)
    fraction = position - low
    high = jnp.minimum(low + 1, size - 1)
    weights = jnp.concatenate([1 - fraction, fraction], axis=-1)
    weights *= jnp.concatenate([inside, inside], axis=-1) / rule.sampling_ratio
    return Taps(jnp.concatenate([low, high], axis=-1), weights)


def axis_matrix(side: Side, length: int, rule: Rule) -> Float[Array, "r p {length}"]:
    """The weight of each cell of a map of ``length`` cells in each bin; its side may end before the map's array."""
    if rule.sampling_ratio == 0:
        samples = adaptive_roi_align.axis_samples(*side, resolution=rule.resolution, aligned=rule.aligned)
        return adaptive_roi_align.axis_matrix(samples, length, rule.resolution)
    cells, weights = axis_taps(side, rule)
    hit = jnp.expand_dims(cells, 3) == jnp.arange(length).reshape(1, 1, 1, -1)
    return jnp.where(hit, jnp.expand_dims(weights, 3), 0).sum(axis=2)
