"""Places RoIs on the pyramid: the level of each RoI, and its sides in cells of that level's map."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops.rounding import ceil_div


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


def place(boxes: Float[Array, "r 4"], canvas: Int[Array, "2"], levels: tuple[int, ...]) -> RoIs:
    """Chooses the level of each box and scales the box from pixels to cells of that level.

    Args:
        boxes: In pixels of the padded image.
        canvas: Height and width of the padded image, in pixels. The maps end with it, rounded up
            to whole cells.
        levels: Consecutive levels of the pyramid, the finest first.
    """
    level = assign_levels(boxes, levels)
    stride = 2**level
    rows, columns = ceil_div(canvas.reshape(2, 1), stride.reshape(1, -1))
    x0, y0, x1, y1 = boxes.T / stride.astype(jnp.float32).reshape(1, -1)
    return RoIs(level - levels[0], Side(y0, y1, rows), Side(x0, x1, columns))


def assign_levels(boxes: Float[Array, "r 4"], levels: tuple[int, ...]) -> Int[Array, " r"]:
    """The pyramid level of each box by its area (Eq. 1 of FPN).

    A box with the area of 224 x 224 pixels goes to level 4, one of half that side to level 3.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # The epsilon decides for sides within rounding of 112, 224, 448. torchvision adds it here,
    # Detectron2 inside the logarithm.
    level = jnp.floor(4 + jnp.log2(jnp.sqrt(area) / 224) + 1e-6)
    # A negative area gives NaN: fmax takes it to the finest level, clip would not.
    return jnp.fmin(jnp.fmax(level, min(levels)), max(levels)).astype(jnp.int32)


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
