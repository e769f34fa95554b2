"""The five losses, over a batch, each as a sum and the count to divide it by.

Sums and counts add up over devices and micro-batches, and are divided once: the mean of means is another number where
the counts differ. Padded slots add to neither.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from maskrcnn_jax.structures import AnchorTargets, RoITargets, SumAndCount


def rpn_loss(
    logits: Float[Array, "b s"], deltas: Float[Array, "b s 4"], targets: AnchorTargets, *, beta: float
) -> dict[str, SumAndCount]:
    """Is there an object at each sampled anchor, and where exactly (Eq. 1 of Faster R-CNN); both per sampled anchor."""
    objectness = optax.sigmoid_binary_cross_entropy(logits, targets.positive.astype(jnp.float32))
    count = targets.valid.sum(dtype=jnp.float32)
    return {
        "loss_objectness": (jnp.where(targets.valid, objectness, 0).sum(), count),
        "loss_rpn_box_reg": (_smooth_l1(deltas, targets.deltas, targets.positive, beta), count),
    }


def box_loss(
    logits: Float[Array, "b r k"], deltas: Float[Array, "b r k 4"], targets: RoITargets, *, beta: float
) -> dict[str, SumAndCount]:
    """Which class is each RoI, and where exactly is an object of that class (Eq. 1 of Fast R-CNN); both per RoI."""
    classification = optax.softmax_cross_entropy_with_integer_labels(logits, targets.classes)
    deltas = jnp.take_along_axis(deltas, targets.classes.reshape(*targets.classes.shape, 1, 1), axis=2).squeeze(2)
    count = targets.valid.sum(dtype=jnp.float32)
    return {
        "loss_classifier": (jnp.where(targets.valid, classification, 0).sum(), count),
        "loss_box_reg": (_smooth_l1(deltas, targets.deltas, targets.positive, beta), count),
    }


def mask_loss(
    logits: Float[Array, "b r m m"], masks: Float[Array, "b r m m"], targets: RoITargets
) -> dict[str, SumAndCount]:
    """Binary cross-entropy per cell of the mask of the true class, over positive RoIs (section 3 of Mask R-CNN)."""
    cells = optax.sigmoid_binary_cross_entropy(logits, masks)
    positive = targets.positive.reshape(*targets.positive.shape, 1, 1)
    count = targets.positive.sum(dtype=jnp.float32) * masks.shape[-1] * masks.shape[-2]
    return {"loss_mask": (jnp.where(positive, cells, 0).sum(), count)}


def mean(sum_and_count: SumAndCount) -> Float[Array, ""]:
    """Sum over count; zero, with zero gradient, where nothing was counted."""
    total, count = sum_and_count
    return total / jnp.maximum(count, 1)


def _smooth_l1(deltas: Array, targets: Array, positive: Array, beta: float) -> Float[Array, ""]:
    """Quadratic below ``beta``, linear above, summed over the positives."""
    error = jnp.abs(deltas - targets)
    loss = jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)
    return jnp.where(jnp.expand_dims(positive, -1), loss, 0).sum()
