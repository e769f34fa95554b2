"""Training targets of the mask head, cut from the stored ground-truth masks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def crop_and_resize(
    masks: UInt8[Array, "r n n"], mask_boxes: Float[Array, "r 4"], rois: Float[Array, "r 4"], resolution: int
) -> Float[Array, "r m m"]:
    """The share of each RoI's cell that its object covers, in [0, 1].

    Args:
        masks: Masks on a grid over their own boxes, 255 inside the object.
        mask_boxes: The boxes these grids cover, in pixels.
        rois: The boxes to cut out, in pixels; nothing of the object is outside its own box.
        resolution: Cells per side of the result.

    The average over each cell is exact and separable: ``rows @ mask @ columns.T``. torchvision averages bilinear
    samples of a mask at the size of the image instead, which for small objects is further from the annotated polygon.
    """
    rows = jax.vmap(lambda box, roi: _overlap(box[1], box[3], roi[1], roi[3], masks.shape[1], resolution))
    columns = jax.vmap(lambda box, roi: _overlap(box[0], box[2], roi[0], roi[2], masks.shape[2], resolution))
    return jnp.einsum(
        "ryi,rij,rxj->ryx",
        rows(mask_boxes, rois),
        masks.astype(jnp.float32) / 255,
        columns(mask_boxes, rois),
        precision=jax.lax.Precision.HIGHEST,
    )


def _overlap(
    start: Float[Array, ""],
    stop: Float[Array, ""],
    roi_start: Float[Array, ""],
    roi_stop: Float[Array, ""],
    n: int,
    m: int,
) -> Float[Array, "m n"]:
    """Share of each of the m cells of the RoI that each of the n cells of the stored mask covers, along one axis."""
    scale = n / jnp.maximum(stop - start, 1e-6)  # Sides may be zero where a slot is empty.
    edges = (roi_start - start) * scale + jnp.arange(m + 1) * ((roi_stop - roi_start) * scale / m)
    cells = jnp.arange(n, dtype=jnp.float32).reshape(1, -1)
    low, high = edges[:-1].reshape(-1, 1), edges[1:].reshape(-1, 1)
    overlap = jnp.minimum(high, cells + 1) - jnp.maximum(low, cells)
    return jnp.maximum(overlap, 0) / jnp.maximum(high - low, 1e-6)
