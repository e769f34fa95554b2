"""Windows of the pyramid around sampled anchors: all that their scores depend on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Pyramid = dict[int, Float[Array, "_h _w c"]]


def windows_at(
    pyramid: Pyramid, extents: dict[int, Int[Array, "2"]], indices: Int[Array, " s"], *, num_ratios: int, radius: int
) -> tuple[Pyramid, Float[Array, "s d d c"], Bool[Array, "s d d 1"]]:
    """The cells around the cell of each anchor, on its level.

    Args:
        pyramid: Feature maps of one image.
        extents: Per level, height and width in cells of what the canvas covers.
        indices: Of anchors among those of all levels, in the order of `anchors.pyramid_anchors`.
        num_ratios: Anchors per cell.
        radius: Cells on each side of the one in the middle: ``d = 2 * radius + 1``.

    Returns:
        The same pyramid, for all that comes after: the gradient of the windows is added to the one that has come
        together there, and needs no maps of its own. Then the windows, and which of their cells lie within the extent;
        the others are zero.
    """
    offset = jnp.arange(-radius, radius + 1)
    passed_on, windows, inside, first = {}, 0, False, 0
    for level in sorted(pyramid):
        height, width, channels = pyramid[level].shape
        cell = (indices - first) // num_ratios
        first += height * width * num_ratios
        here = (cell >= 0) & (cell < height * width)
        rows = (cell // width).reshape(-1, 1, 1) + offset.reshape(1, -1, 1)
        columns = (cell % width).reshape(-1, 1, 1) + offset.reshape(1, 1, -1)
        covered = (rows >= 0) & (rows < extents[level][0]) & (columns >= 0) & (columns < extents[level][1])
        covered &= here.reshape(-1, 1, 1)
        cells = jnp.where(covered, rows * width + columns, height * width)  # Beyond the last: none at all.
        features, of_level = _read(pyramid[level].reshape(-1, channels), cells)
        passed_on[level] = features.reshape(height, width, channels)
        windows, inside = windows + of_level, inside | covered
    return passed_on, windows, inside[..., None]


@jax.custom_vjp
def _read(features: Float[Array, "n c"], cells: Int[Array, "*axes"]) -> tuple[Array, Float[Array, "*axes c"]]:
    """All features, and those of some cells; zero where there is no such cell."""
    return features, features.at[cells].get(mode="fill", fill_value=0)


def _forward(features: Array, cells: Array) -> tuple[tuple[Array, Array], Array]:
    return _read(features, cells), cells


def _backward(cells: Array, gradients: tuple[Array, Array]) -> tuple[Array, None]:
    of_features, of_windows = gradients
    return of_features.at[cells].add(of_windows, mode="drop"), None


_read.defvjp(_forward, _backward)
