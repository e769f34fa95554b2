"""Anchors: the reference boxes that the region proposal network scores and moves."""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.ops import boxes
from maskrcnn_jax.ops.rounding import ceil_div


def cell_anchors(
    size: float | int, aspect_ratios: tuple[float, ...], rounded: bool = True
) -> np.ndarray:
    """Anchors of one cell around the origin, float32 ``[a, 4]``, in pixels.

    Args:
        size: Square root of the area of each anchor, in pixels, before rounding.
        aspect_ratios: Height over width of each anchor.
        rounded: Whether corners are rounded to whole pixels, half to even, as in torchvision:
            trained weights expect the anchors they learned with.
    """
    height = np.sqrt(np.array(aspect_ratios, np.float32))
    width = 1 / height
    half = np.stack([-width, -height, width, height], axis=1) * np.float32(size) / 2
    return np.round(half).astype(np.float32) if rounded else half


def map_shapes(
    bucket: tuple[int, int], levels: Iterable[int] = range(2, 7)
) -> dict[int, tuple[int, int]]:
    """Height and width of the feature maps, P2 to P6, for images of this height and width."""
    return {level: tuple(ceil_div(side, 2**level) for side in bucket) for level in levels}


def grid_anchors(
    shape: tuple[int, int],
    extent: Int[Array, "2"],
    canvas: Int[Array, "2"],
    sizes: Sequence[float | int],
    aspect_ratios: tuple[float, ...],
    *,
    stride: int | None = None,
    rounded: bool = True,
) -> tuple[Float[Array, "n 4"], Bool[Array, " n"]]:
    """Anchors of one level, and whether the cell of each lies on the canvas.

    Anchors are ordered by size, ratio, row, column: the innermost axis is a long one, as
    accelerators need. The first anchor is centred on the corner of the image, without half a stride
    of offset.

    Args:
        shape: Height and width of the feature map, in cells.
        extent: Height and width of the part of the map that the canvas covers, in cells.
        canvas: Height and width of the padded image, in pixels.
        sizes: Sides of the square anchors of a cell, in pixels.
        aspect_ratios: Height over width of the anchors of a cell.
        stride: Distance of neighbouring anchors, in pixels. None is torchvision's rule, the whole
            number ``canvas // extent`` per axis: 61, not 64, for 800 pixels on the 13 rows of P6.
        rounded: As in `cell_anchors`.
    """
    down, across = canvas // extent if stride is None else (stride, stride)
    rows, columns = jnp.arange(shape[0]), jnp.arange(shape[1])
    y = (rows * down).astype(jnp.float32).reshape(1, -1, 1)
    x = (columns * across).astype(jnp.float32).reshape(1, 1, -1)
    whole = (len(sizes) * len(aspect_ratios), *shape)
    cells = np.concatenate([cell_anchors(size, aspect_ratios, rounded) for size in sizes])
    bases = cells.T.reshape(4, -1, 1, 1)
    corners = [shift + base for shift, base in zip((x, y, x, y), bases, strict=True)]
    coordinates = [jnp.broadcast_to(corner, whole).reshape(-1) for corner in corners]
    inside = (rows < extent[0]).reshape(1, -1, 1) & (columns < extent[1]).reshape(1, 1, -1)
    return boxes.join(*coordinates), jnp.broadcast_to(inside, whole).reshape(-1)


def pyramid_anchors(
    shapes: dict[int, tuple[int, int]],
    canvas: Int[Array, "2"],
    sizes: tuple[float | int, ...],
    aspect_ratios: tuple[float, ...],
    *,
    stride: str = "canvas",
    rounded: bool = True,
) -> dict[int, tuple[Float[Array, "n 4"], Bool[Array, " n"]]]:
    """`grid_anchors` of every level.

    Args:
        shapes: Per level, height and width of the feature map, in cells.
        canvas: Height and width of the padded image, in pixels.
        sizes: The anchor size of each level, the finest first; or all sizes of a single level.
        aspect_ratios: Height over width of the anchors of a cell.
        stride: "level" for ``2**level`` pixels, "canvas" for torchvision's rule; see
            `grid_anchors`.
        rounded: As in `cell_anchors`.
    """
    grids = {}
    of_levels = [sizes] if len(shapes) == 1 else [(size,) for size in sizes]
    for level, of_cell in zip(sorted(shapes), of_levels, strict=True):
        extent = ceil_div(canvas, 2**level)
        pixels = 2**level if stride == "level" else None
        grids[level] = grid_anchors(
            shapes[level], extent, canvas, of_cell, aspect_ratios, stride=pixels, rounded=rounded
        )
    return grids
