"""Places RoIs on the pyramid: the level of each RoI, and its sides in cells of that level's map."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops.rounding import ceil_div

# The smallest square roots of areas on levels 3, 4 and 5, as the bits of float32 numbers: close to
# 112, 224 and 448. Each library computes the level by a logarithm and adds an epsilon in its own
# place. The logarithms of PyTorch and of JAX round differently, so the results are tabulated here,
# measured with PyTorch on a CPU.
SMALLEST_SIDES = {
    "torchvision": (0x42DFFFF5, 0x435FFFF6, 0x43DFFFF4),
    "detectron2": (0x42DFFFFE, 0x435FFFFF, 0x43DFFFFD),
    "mmdetection": (0x42DFFFF9, 0x435FFFFD, 0x43DFFFFD),
}


class Side(NamedTuple):
    """Top and bottom, or left and right, of each RoI in cells of its map."""

    start: Float[Array, " r"]
    stop: Float[Array, " r"]
    size: Int[Array, " r"]  # Cells of the map along this axis.


class RoIs(NamedTuple):
    """The RoIs of one image, each on the map it is pooled from."""

    maps: Int[Array, " r"]  # Index of the map, counted from the finest.
    rows: Side
    columns: Side


def place(
    boxes: Float[Array, "r 4"],
    canvas: Int[Array, "2"],
    levels: tuple[int, ...],
    level_rule: str = "torchvision",
) -> RoIs:
    """Chooses the level of each box and scales the box from pixels to cells of that level.

    Args:
        boxes: In pixels of the padded image.
        canvas: Height and width of the padded image, in pixels. The maps end with it, rounded up
            to whole cells.
        levels: Consecutive levels of the pyramid, the finest first.
        level_rule: As in `assign_levels`.
    """
    level = assign_levels(boxes, levels, level_rule)
    stride = 2**level
    rows, columns = ceil_div(canvas.reshape(2, 1), stride.reshape(1, -1))
    x0, y0, x1, y1 = boxes.T / stride.astype(jnp.float32).reshape(1, -1)
    return RoIs(level - levels[0], Side(y0, y1, rows), Side(x0, x1, columns))


def assign_levels(
    boxes: Float[Array, "r 4"], levels: tuple[int, ...], rule: str = "torchvision"
) -> Int[Array, " r"]:
    """The pyramid level of each box by its area (Eq. 1 of FPN).

    A box with the area of 224 x 224 pixels goes to level 4, one of half that side to level 3.
    ``rule`` names the library whose rounding decides for sides close to these; see
    `SMALLEST_SIDES`.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    sides = jnp.array(SMALLEST_SIDES[rule], jnp.uint32).view(jnp.float32)
    # A negative area gives NaN, which is on the finest level.
    level = 2 + (jnp.sqrt(area).reshape(-1, 1) >= sides.reshape(1, -1)).sum(axis=1)
    return jnp.clip(level, min(levels), max(levels)).astype(jnp.int32)


def map_offsets(
    rois: RoIs, shapes: list[tuple[int, ...]]
) -> tuple[Int[Array, " r"], Int[Array, " r"]]:
    """The first cell and the width of the map of each RoI, for maps joined to one array of cells.

    Args:
        rois: RoIs on these maps.
        shapes: Shapes ``(h, w, c)`` of the maps, which follow each other row by row.
    """
    first_cells = jnp.array([sum(h * w for h, w, _ in shapes[:i]) for i in range(len(shapes))])
    widths = jnp.array([w for _, w, _ in shapes])
    return first_cells[rois.maps], widths[rois.maps]


def split_cells(cells: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Cuts one array of cells ``[n, c]`` into its maps, of the given shapes ``(h, w, c)``."""
    sizes = [height * width for height, width, _ in shapes]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    parts = jnp.split(cells, ends)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
