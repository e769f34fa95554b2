"""Geometry of boxes: overlap, and the deltas that turn one box into another.

Arrays of boxes have the coordinates ``(x0, y0, x1, y1)`` along their last axis. The functions here
compute with one array per coordinate: an accelerator pads a last axis of 4 to 128.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Decoded boxes grow at most 62.5-fold, which keeps exp finite (Detectron's bound).
MAX_LOG_SCALE = math.log(1000 / 16)


def split(boxes: Float[Array, "*n 4"]) -> tuple[Float[Array, "*n"], ...]:
    """One array per coordinate, or per delta."""
    return tuple(jnp.moveaxis(boxes, -1, 0))


def join(*coordinates: Float[Array, "*n"]) -> Float[Array, "*n 4"]:
    """The inverse of `split`."""
    return jnp.moveaxis(jnp.stack(coordinates), 0, -1)


def concatenate(parts: Sequence[Float[Array, "_ 4"]]) -> Float[Array, "n 4"]:
    """Lists of boxes as one list."""
    return join(*(jnp.concatenate(xs) for xs in zip(*map(split, parts), strict=True)))


def take(boxes: Float[Array, "n 4"], indices: Int[Array, " m"]) -> Float[Array, "m 4"]:
    """The boxes, or deltas, with these indices."""
    return join(*(x[indices] for x in split(boxes)))


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas in square pixels; the width of a box is ``x1 - x0``."""
    x0, y0, x1, y1 = split(boxes)
    return (x1 - x0) * (y1 - y0)


@partial(jax.jit, inline=True)  # Traced once for each shape: NMS asks for many parts alike.
def pairwise_iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every pair; NaN (0 / 0) for two boxes without area."""
    x0, y0, x1, y1 = (x.reshape(-1, 1) for x in split(a))
    left, top, right, bottom = (x.reshape(1, -1) for x in split(b))
    width = jnp.minimum(x1, right) - jnp.maximum(x0, left)
    height = jnp.minimum(y1, bottom) - jnp.maximum(y0, top)
    intersection = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    areas = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top)
    return intersection / (areas - intersection)


def generalised_iou(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """The IoU of each pair, less the empty share of the smallest box around both.

    It is between -1 and 1 (Rezatofighi et al., 2019). One box of each pair must have an area.
    """
    x0, y0, x1, y1 = split(a)
    left, top, right, bottom = split(b)
    width = jnp.minimum(x1, right) - jnp.maximum(x0, left)
    height = jnp.minimum(y1, bottom) - jnp.maximum(y0, top)
    intersection = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    union = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - intersection
    around = (jnp.maximum(x1, right) - jnp.minimum(x0, left)) * (
        jnp.maximum(y1, bottom) - jnp.minimum(y0, top)
    )
    return intersection / union - (around - union) / around


def encode(
    boxes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"], weights: tuple[float, ...]
) -> Float[Array, "*_ 4"]:
    """Deltas ``(dx, dy, dw, dh)`` from anchors to boxes (Eq. 2 of Faster R-CNN).

    Each delta is multiplied by its weight. Deltas are not finite where a side is zero: callers mask
    those out.
    """
    x, y, width, height = _centers_and_sizes(boxes)
    anchor_x, anchor_y, anchor_width, anchor_height = _centers_and_sizes(anchors)
    deltas = (
        (x - anchor_x) / anchor_width,
        (y - anchor_y) / anchor_height,
        jnp.log(width / anchor_width),
        jnp.log(height / anchor_height),
    )
    return join(*(delta * weight for delta, weight in zip(deltas, weights, strict=True)))


def decode(
    deltas: Float[Array, "*#n 4"],
    anchors: Float[Array, "*#n 4"],
    weights: tuple[float, ...],
    limit_shrinking: bool = False,
) -> Float[Array, "*_ 4"]:
    """Moves anchors by deltas; the inverse of `encode`, up to a growth of `MAX_LOG_SCALE`.

    With ``limit_shrinking`` the same number limits how much a side shrinks.
    """
    dx, dy, *log_scales = (d / weight for d, weight in zip(split(deltas), weights, strict=True))
    anchor_x, anchor_y, anchor_width, anchor_height = _centers_and_sizes(anchors)
    x, y = dx * anchor_width + anchor_x, dy * anchor_height + anchor_y
    lowest = -MAX_LOG_SCALE if limit_shrinking else -jnp.inf
    dw, dh = (jnp.clip(log_scale, lowest, MAX_LOG_SCALE) for log_scale in log_scales)
    half_width, half_height = (
        0.5 * (jnp.exp(dw) * anchor_width),
        0.5 * (jnp.exp(dh) * anchor_height),
    )
    return join(x - half_width, y - half_height, x + half_width, y + half_height)


def clip(boxes: Float[Array, "*n 4"], size: Int[Array, "2"]) -> Float[Array, "*n 4"]:
    """Moves corners outside an image of ``size`` (height, width in pixels) onto its border."""
    height, width = size[0].astype(jnp.float32), size[1].astype(jnp.float32)
    x0, y0, x1, y1 = split(boxes)
    x0, x1 = jnp.clip(x0, 0, width), jnp.clip(x1, 0, width)
    return join(x0, jnp.clip(y0, 0, height), x1, jnp.clip(y1, 0, height))


def has_min_side(boxes: Float[Array, "*n 4"], side: float) -> Bool[Array, "*n"]:
    """Whether both sides of a box measure at least ``side`` pixels."""
    x0, y0, x1, y1 = split(boxes)
    return (x1 - x0 >= side) & (y1 - y0 >= side)


def has_area(boxes: Float[Array, "*n 4"]) -> Bool[Array, "*n"]:
    """Whether both sides of a box are longer than zero."""
    x0, y0, x1, y1 = split(boxes)
    return (x1 > x0) & (y1 > y0)


def _centers_and_sizes(boxes: Float[Array, "*n 4"]) -> tuple[Float[Array, "*n"], ...]:
    """Centre x and y, width, height."""
    x0, y0, x1, y1 = split(boxes)
    width, height = x1 - x0, y1 - y0
    return x0 + 0.5 * width, y0 + 0.5 * height, width, height
