"""Training targets of the mask head, cut from the stored ground-truth masks."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from maskrcnn_jax.ops import adaptive_roi_align


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
    samples of a mask at the size of the image instead, as `project` does; for small objects that is further from the
    annotated polygon.
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


def project(
    masks: UInt8[Array, "g h w"],
    instances: Int[Array, " r"],
    rois: Float[Array, "r 4"],
    size: Int[Array, "2"],
    resolution: int,
) -> Float[Array, "r m m"]:
    """RoIAlign of masks at the size of the image: torchvision's ``project_masks_on_boxes``, in [0, 1].

    Args:
        masks: One image's masks, 255 inside the object.
        instances: Which mask each RoI is cut from.
        rois: The boxes to cut out, in pixels.
        size: Height and width of the image. The masks end with it, though their arrays may be larger.
        resolution: Cells per side of the result.

    Each cell is the mean of ``ceil(side / resolution)`` samples per axis, half a pixel off (``aligned`` is False).
    """
    _, height, width = masks.shape
    x0, y0, x1, y1 = rois.T
    axis_samples = partial(adaptive_roi_align.axis_samples, resolution=resolution, aligned=False)
    rows, columns = (
        axis_samples(start, stop, jnp.full_like(instances, side))
        for start, stop, side in ((y0, y1, size[0]), (x0, x1, size[1]))
    )
    maps = adaptive_roi_align.RoIs(instances * (height * width), jnp.full_like(instances, width), rows, columns)
    return adaptive_roi_align.pool(masks.reshape(-1, 1), maps, resolution)[..., 0] / 255
