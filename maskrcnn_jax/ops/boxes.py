"""Geometry of boxes: overlap, and the deltas that turn one box into another."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Decoded boxes grow at most 62.5-fold, which keeps exp finite (Detectron's bound).
MAX_LOG_SCALE = math.log(1000 / 16)


def area(boxes: Float[Array, "n 4"]) -> Float[Array, " n"]:
    """Areas in square pixels; the width of a box is ``x1 - x0``."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def pairwise_iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every pair; NaN (0 / 0) for two boxes without area."""
    a, b = a.reshape(-1, 1, 4), b.reshape(1, -1, 4)
    width = jnp.minimum(a[..., 2], b[..., 2]) - jnp.maximum(a[..., 0], b[..., 0])
    height = jnp.minimum(a[..., 3], b[..., 3]) - jnp.maximum(a[..., 1], b[..., 1])
    intersection = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return intersection / (area_a + area_b - intersection)


def encode(
    boxes: Float[Array, "*#n 4"], anchors: Float[Array, "*#n 4"], weights: tuple[float, ...]
) -> Float[Array, "*_ 4"]:
    """Deltas ``(dx, dy, dw, dh)`` from anchors to boxes (Eq. 2 of Faster R-CNN).

    Each delta is multiplied by its weight. Deltas are not finite where a side is zero: callers mask
    those out.
    """
    size, anchor_size = _sizes(boxes), _sizes(anchors)
    shift = (_centers(boxes, size) - _centers(anchors, anchor_size)) / anchor_size
    deltas = jnp.concatenate([shift, jnp.log(size / anchor_size)], axis=-1)
    return deltas * _row(weights, deltas.ndim)


def decode(
    deltas: Float[Array, "*#n 4"],
    anchors: Float[Array, "*#n 4"],
    weights: tuple[float, ...],
    limit_shrinking: bool = False,
) -> Float[Array, "*_ 4"]:
    """Moves anchors by deltas; the inverse of `encode`, up to a growth of `MAX_LOG_SCALE`.

    With ``limit_shrinking`` the same number limits how much a side shrinks.
    """
    deltas = deltas / _row(weights, deltas.ndim)
    size = _sizes(anchors)
    center = deltas[..., :2] * size + _centers(anchors, size)
    log_scale = jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)
    if limit_shrinking:
        log_scale = jnp.maximum(log_scale, -MAX_LOG_SCALE)
    half = 0.5 * (jnp.exp(log_scale) * size)
    return jnp.concatenate([center - half, center + half], axis=-1)


def clip(boxes: Float[Array, "*n 4"], size: Int[Array, "2"]) -> Float[Array, "*n 4"]:
    """Moves corners outside an image of ``size`` (height, width in pixels) onto its border."""
    height, width = size[0].astype(jnp.float32), size[1].astype(jnp.float32)
    limit = jnp.stack([width, height, width, height]).reshape((1,) * (boxes.ndim - 1) + (4,))
    return jnp.clip(boxes, 0, limit)


def has_min_side(boxes: Float[Array, "*n 4"], side: float) -> Bool[Array, "*n"]:
    """Whether both sides of a box measure at least ``side`` pixels."""
    return (_sizes(boxes) >= side).all(axis=-1)


def has_area(boxes: Float[Array, "*n 4"]) -> Bool[Array, "*n"]:
    """Whether both sides of a box are longer than zero."""
    return (_sizes(boxes) > 0).all(axis=-1)


def _sizes(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    return boxes[..., 2:] - boxes[..., :2]


def _centers(boxes: Float[Array, "*n 4"], sizes: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    return boxes[..., :2] + 0.5 * sizes


def _row(weights: tuple[float, ...], ndim: int) -> Float[Array, "*_ 4"]:
    return jnp.array(weights, jnp.float32).reshape((1,) * (ndim - 1) + (4,))
