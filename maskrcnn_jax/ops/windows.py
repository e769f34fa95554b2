"""Windows of the pyramid around sampled anchors, which hold all cells that their scores read."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.structures import ImagePyramid


def windows_at(
    pyramid: ImagePyramid,
    extents: dict[int, Int[Array, "2"]],
    indices: Int[Array, " s"],
    *,
    num_anchors: int,
    radius: int,
) -> tuple[Float[Array, "s d d c"], Bool[Array, "s d d 1"], Int[Array, " s"]]:
    """Reads the cells around the cell of each anchor, on its level.

    Args:
        pyramid: Feature maps of one image.
        extents: Per level, height and width in cells of the part that the canvas covers.
        indices: Indices of anchors among those of all levels, in the order of
            `anchors.pyramid_anchors`.
        num_anchors: Anchors per cell.
        radius: Cells on each side of the cell of the anchor: ``d = 2 * radius + 1``.

    Returns:
        The windows, whether each of their cells lies within the extent (the others are zero), and
        the index of each anchor among those of its cell.
    """
    offset = jnp.arange(-radius, radius + 1)
    windows, inside, anchors, first = 0, False, 0, 0
    for level in sorted(pyramid):
        height, width, channels = pyramid[level].shape
        index, num_cells = indices - first, height * width
        first += num_anchors * num_cells
        on_level = (index >= 0) & (index < num_anchors * num_cells)
        cell = index % num_cells
        anchors += jnp.where(on_level, index // num_cells, 0)
        rows = (cell // width).reshape(-1, 1, 1) + offset.reshape(1, -1, 1)
        columns = (cell % width).reshape(-1, 1, 1) + offset.reshape(1, 1, -1)
        covered = (rows >= 0) & (rows < extents[level][0])
        covered &= (columns >= 0) & (columns < extents[level][1])
        covered &= on_level.reshape(-1, 1, 1)
        # Cells out of bounds read as zero.
        cells = jnp.where(covered, rows * width + columns, num_cells)
        features = pyramid[level].reshape(-1, channels)
        windows += features.at[cells].get(mode="fill", fill_value=0)
        inside |= covered
    return windows, inside[..., None], anchors
