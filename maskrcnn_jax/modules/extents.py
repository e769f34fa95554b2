"""Extents: the part of a feature map that the canvas of each image covers.

An extent is int32 ``[b, 2]`` (height, width), in cells. Cells beyond it must not influence cells
inside, so that an image gives the same result in any bucket. A convolution with a kernel of more
than one cell takes maps that are zero there, as if they ended with the extent; norms leave those
cells out of their statistics. RoIs have no such border and pass None.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def zero_beyond(
    x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None
) -> Float[Array, "b h w c"]:
    """Sets the cells beyond the extent of each image to zero."""
    return x if extent is None else jnp.where(within(x.shape[1:3], extent), x, 0)


def within(shape: tuple[int, int], extent: Int[Array, "b 2"]) -> Bool[Array, "b h w 1"]:
    """Whether each cell of a map of this height and width lies inside the extent of its image."""
    rows = jnp.arange(shape[0]).reshape(1, -1, 1, 1) < extent[:, 0].reshape(-1, 1, 1, 1)
    columns = jnp.arange(shape[1]).reshape(1, 1, -1, 1) < extent[:, 1].reshape(-1, 1, 1, 1)
    return rows & columns


def halve(extent: Int[Array, "b 2"] | None, stride: int = 2) -> Int[Array, "b 2"] | None:
    """Extent of the result of a convolution or pooling of this stride."""
    if extent is None:
        return None
    # XLA repeats this division wherever the extent is read. jax.lax.div is a single operation, the
    # floor division of ``ceil_div`` some thirty.
    return jax.lax.div(extent + (stride - 1), jnp.full_like(extent, stride))


def pyramid_extents(
    levels: Iterable[int], canvas: Int[Array, "b 2"]
) -> dict[int, Int[Array, "b 2"]]:
    """The extent of each level, for a canvas in pixels."""
    return {level: halve(canvas, 2**level) for level in levels}
