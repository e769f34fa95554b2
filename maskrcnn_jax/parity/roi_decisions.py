"""Decisions about one RoI that rounding can change: its level, its samples, its pasted corners."""

import math

import numpy as np
from jaxtyping import Float, Float32, Int

from maskrcnn_jax.ops.roi_pooling.placement import SMALLEST_SIDES
from maskrcnn_jax.parity import pairing
from maskrcnn_jax.parity.records import Step, Steps
from maskrcnn_jax.parity.selection import Side

Drawn = tuple[Float[np.ndarray, " 4"], Float32[np.ndarray, "h w"]]  # A box, and its mask.

LEVEL_TOLERANCE = 1e-4  # For the logarithm in the level rule of FPN.
CELL_TOLERANCE = 1e-3  # Cells of a feature map.
PIXEL_TOLERANCE = 0.01
GROWTH = 30 / 28  # A mask of 28x28 gets a border of one cell before pasting.


def why_pooled_otherwise(
    one: Float[np.ndarray, " 4"], other: Float[np.ndarray, " 4"], side: Side, resolution: int
) -> Steps:
    """Checks whether two versions of an RoI differ in level, samples, or samples beyond the map."""
    config, pooled_from = side.config.model.roi, side.config.model.levels
    levels = [_level(box, config.level_rule, pooled_from) for box in (one, other)]
    if levels[0] != levels[1]:
        boundary = max(levels)
        exact = [_exact_level(box) for box in (one, other)]
        text = f"level {exact[0]:.7f} and {exact[1]:.7f} of its RoI, boundary {boundary}"
        margin = max(abs(value - boundary) for value in exact)
        return (Step(text, margin, LEVEL_TOLERANCE),)
    cells = [box.astype(np.float64) / 2 ** levels[0] for box in (one, other)]
    per_bin = [_side_of_bins(box, resolution, config.aligned) for box in cells]
    if config.sampling_ratio:
        counts = [np.full(2, config.sampling_ratio)] * 2
    else:
        counts = [np.maximum(np.ceil(bins).astype(int), 1) for bins in per_bin]
    differ = counts[0] != counts[1]
    if differ.any():
        boundary = np.minimum(*counts)
        distances = [np.abs(bins - boundary)[differ].max() for bins in per_bin]
        text = f"{counts[0][differ][0]} and {counts[1][differ][0]} samples in each bin of its RoI"
        return (Step(text, float(max(distances)) * resolution, CELL_TOLERANCE),)
    extent = -(-np.array(side.outcome.canvas) // 2 ** levels[0])[::-1]
    return _why_sampled_beyond(cells, counts[0], extent, resolution, config.aligned)


def _why_sampled_beyond(
    cells: list[Float[np.ndarray, " 4"]],
    counts: Int[np.ndarray, "2"],
    extent: Int[np.ndarray, "2"],
    resolution: int,
    aligned: bool,
) -> Steps:
    """Checks whether samples of only one version of an RoI lie beyond the map.

    Args:
        cells: Both versions, in cells of the map.
        counts: Samples in each bin along x and y.
        extent: Width and height of the map in cells.
        resolution: Bins per axis.
        aligned: As in `RoIConfig`.
    """
    for axis in (0, 1):
        count = resolution * int(counts[axis])
        steps = (np.arange(count) + 0.5) / count
        positions = [
            box[axis] - 0.5 * aligned + steps * resolution * bins[axis]
            for box in cells
            for bins in [_side_of_bins(box, resolution, aligned)]
        ]
        outside = [each > extent[axis] for each in positions]
        differ = outside[0] != outside[1]
        if differ.any():
            margin = max(float(np.abs(each - extent[axis])[differ].max()) for each in positions)
            text = f"a sample of its RoI is {margin:.1e} cells from the border"
            return (Step(text, margin, CELL_TOLERANCE),)
    return ()


def _level(box: Float[np.ndarray, " 4"], rule: str, levels: tuple[int, ...]) -> int:
    """`assign_levels` for one RoI, for the levels of a model."""
    width, height = (box[2:] - box[:2]).astype(np.float32)
    smallest = np.array(SMALLEST_SIDES[rule], np.uint32).view(np.float32)
    level = 2 + int(np.count_nonzero(np.sqrt(np.maximum(width * height, 0)) >= smallest))
    return min(max(level, levels[0]), levels[-1])  # No RoI is on P6 in any case.


def _exact_level(box: Float[np.ndarray, " 4"]) -> float:
    """The level of an RoI before rounding (Eq. 1 of FPN)."""
    area = np.prod((box[2:] - box[:2]).astype(np.float64))
    return 4 + math.log2(max(math.sqrt(max(area, 0)), 1e-9) / 224)


def _side_of_bins(
    cells: Float[np.ndarray, " 4"], resolution: int, aligned: bool
) -> Float[np.ndarray, "2"]:
    """Width and height of the bins of RoIAlign, in cells; without ``aligned`` an RoI has one."""
    sides = cells[2:] - cells[:2]
    return (sides if aligned else np.maximum(sides, 1)) / resolution


def why_pasted_otherwise(one: Float[np.ndarray, " 4"], other: Float[np.ndarray, " 4"]) -> Steps:
    """Checks whether the corners of the two grown boxes are truncated to different pixels."""
    corners = []
    for box in (one, other):
        center, half = (box[:2] + box[2:]) * 0.5, (box[2:] - box[:2]) * 0.5
        corners.append(np.concatenate([center - half * GROWTH, center + half * GROWTH]))
    differ = np.trunc(corners[0]) != np.trunc(corners[1])
    if not differ.any():
        return ()
    values = corners[0][differ], corners[1][differ]
    margin = max(float(np.abs(value - np.rint(value)).max()) for value in values)
    positions = f"{values[0][0]:.5f} and {values[1][0]:.5f}"
    text = f"its mask is pasted from a corner at {positions}, truncated to whole pixels"
    return (Step(text, margin, PIXEL_TOLERANCE),)


def why_drawn_beyond(one: Drawn, other: Drawn) -> Steps:
    """Checks whether the masks of two boxes differ only where one of their windows ends.

    A mask that is drawn at the centres of pixels fills the window of the pixels that its box
    touches, and of one more on each side. Each mask comes with its box, in the original image.
    """
    windows = [
        np.concatenate([np.floor(box[:2]) - 1, np.ceil(box[2:]) + 1]) for box, _ in (one, other)
    ]
    differ = windows[0] != windows[1]
    if not differ.any():
        return ()
    x0, y0 = np.maximum(windows[0][:2], windows[1][:2]).clip(0).astype(int)
    x1, y1 = np.minimum(windows[0][2:], windows[1][2:]).astype(int)
    shared = [mask[y0:y1, x0:x1] for _, mask in (one, other)]
    if pairing.differing_share(*shared) > pairing.PIXEL_SHARE:
        return ()
    values = one[0][differ], other[0][differ]
    margin = max(float(np.abs(value - np.rint(value)).max()) for value in values)
    positions = f"{values[0][0]:.5f} and {values[1][0]:.5f}"
    text = f"its mask is drawn up to a corner at {positions}, rounded to whole pixels"
    return (Step(text, margin, PIXEL_TOLERANCE),)
