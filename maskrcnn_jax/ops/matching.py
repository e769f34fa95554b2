"""Matching of candidate boxes (anchors, proposals) with ground-truth instances."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def match(
    iou: Float[Array, "g n"],
    valid: Bool[Array, " g"],
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: bool,
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Assigns to each candidate its closest instance (the first of equals) and a label.

    Args:
        iou: Overlap of instances with candidates; rows of instances that are not valid are ignored, and NaN, the
            overlap of two boxes without area, matches nothing.
        low_quality: Also make positive every candidate that no other surpasses in overlap with some instance, ties
            included (section 3.1.2 of Faster R-CNN), so that each instance has at least one. It keeps the instance
            it is closest to, which may be another one.

    Returns:
        The index of the instance, and the label: 1 positive, 0 negative, -1 between the thresholds. Without a valid
        instance all candidates are negative.
    """
    # Both uses below must see the same bits: recomputed in another fusion, an overlap can differ in the last place, and
    # the comparison for equality would lose matches.
    iou = jax.lax.optimization_barrier(jnp.where(valid.reshape(-1, 1) & (iou >= 0), iou, -1.0))
    best = iou.max(axis=0)
    labels = jnp.where(best >= positive_iou, 1, jnp.where(best < negative_iou, 0, -1))
    if low_quality:
        best_of_instance = jnp.where(valid, iou.max(axis=1), 2.0)  # No overlap reaches 2: padding asks for nothing.
        labels = jnp.where((iou == best_of_instance.reshape(-1, 1)).any(axis=0), 1, labels)
    return iou.argmax(axis=0).astype(jnp.int32), labels.astype(jnp.int32)
