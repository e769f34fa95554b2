"""Training targets of the mask head, cut from the stored ground-truth masks."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from maskrcnn_jax.ops.roi_pooling import adaptive


def crop_and_resize(
    masks: UInt8[Array, "r n n"],
    mask_boxes: Float[Array, "r 4"],
    rois: Float[Array, "r 4"],
    resolution: int,
) -> Float[Array, "r m m"]:
    """The share of each cell of each RoI that the object covers, in [0, 1], from cropped masks.

    The average over a cell is exact and separable: ``rows @ mask @ columns.T``. torchvision
    averages bilinear samples of a mask at the size of the image instead, as `project` does; for
    small objects that is further from the annotated polygon.

    Args:
        masks: Masks on a grid over their own boxes, 255 inside the object.
        mask_boxes: The boxes that these grids cover, in pixels. An object has no part outside.
        rois: The boxes to cut out, in pixels.
        resolution: Cells per side of the result.
    """
    height, width = masks.shape[1:]

    def rows_of(box: Float[Array, "4"], roi: Float[Array, "4"]) -> Float[Array, "m n"]:
        return _overlap(box[1], box[3], roi[1], roi[3], height, resolution)

    def columns_of(box: Float[Array, "4"], roi: Float[Array, "4"]) -> Float[Array, "m n"]:
        return _overlap(box[0], box[2], roi[0], roi[2], width, resolution)

    return jnp.einsum(
        "ryi,rij,rxj->ryx",
        jax.vmap(rows_of)(mask_boxes, rois),
        masks.astype(jnp.float32) / 255,
        jax.vmap(columns_of)(mask_boxes, rois),
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
    """The share of each of the m cells of an RoI that each of the n cells of a mask covers.

    This is for one axis, on which the mask reaches from ``start`` to ``stop``.
    """
    scale = n / jnp.maximum(stop - start, 1e-6)  # Sides may be zero where a slot is empty.
    cell_length = (roi_stop - roi_start) * scale / m
    edges = (roi_start - start) * scale + jnp.arange(m + 1) * cell_length
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
    *,
    aligned: bool = False,
) -> Float[Array, "r m m"]:
    """RoIAlign of masks at the size of the image: torchvision's ``project_masks_on_boxes``.

    Each cell is the mean, in [0, 1], of ``ceil(side / resolution)`` samples per axis.

    Args:
        masks: The masks of one image, 255 inside the object.
        instances: The index of the mask that each RoI is cut from.
        rois: The boxes to cut out, in pixels.
        size: Height and width of the masks, though their arrays may be larger. Samples in the last
            half pixel take the value of the last pixel.
        resolution: Cells per side of the result.
        aligned: Take the samples in their places, as Detectron2 does; otherwise they are half a
            pixel off.
    """
    _, height, width = masks.shape
    x0, y0, x1, y1 = rois.T
    axis_samples = partial(adaptive.axis_samples, resolution=resolution, aligned=aligned)
    rows = axis_samples(y0, y1, jnp.full_like(instances, size[0]))
    columns = axis_samples(x0, x1, jnp.full_like(instances, size[1]))
    offsets, widths = instances * (height * width), jnp.full_like(instances, width)
    sampled = adaptive.SampledRoIs(offsets, widths, rows, columns)
    return adaptive.pool(masks.reshape(-1, 1), sampled, resolution)[..., 0] / 255
