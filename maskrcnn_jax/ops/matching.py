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
        iou: Overlap of instances with candidates. NaN, the overlap of two boxes without area,
            matches nothing.
        valid: The slots that hold an instance; rows of the others are ignored.
        positive_iou: Candidates with at least this overlap are positive.
        negative_iou: Candidates with less overlap than this are negative.
        low_quality: For each instance, also make the candidates with the largest overlap positive,
            ties included (section 3.1.2 of Faster R-CNN), so that each instance has at least one.
            Such a candidate keeps its own closest instance, which may be another one.

    Returns:
        The index of the instance, and the label: 1 positive, 0 negative, -1 between the thresholds.
        Without a valid instance all candidates are negative.
    """
    iou = jnp.where(valid.reshape(-1, 1) & (iou >= 0), iou, -1.0)
    iou = _same_bits_everywhere(iou)
    best = iou.max(axis=0)
    labels = jnp.where(best >= positive_iou, 1, jnp.where(best < negative_iou, 0, -1))
    if low_quality:
        # No overlap reaches 2, so padded slots make no candidate positive.
        best_of_instance = jnp.where(valid, iou.max(axis=1), 2.0)
        is_best = (iou == best_of_instance.reshape(-1, 1)).any(axis=0)
        labels = jnp.where(is_best, 1, labels)
    return iou.argmax(axis=0).astype(jnp.int32), labels.astype(jnp.int32)


def _same_bits_everywhere(x: Array) -> Array:
    """Identity; each use of the result sees the same bits.

    Recomputed in another fusion, an overlap can differ in the last place, and a comparison for
    equality would lose matches. NVIDIA's compiler contracts no multiplications and additions, so
    there the bits agree, and to compute the overlaps three times is faster than to store them.
    """
    barrier = jax.lax.optimization_barrier
    return jax.lax.platform_dependent(x, cuda=lambda x: x, default=barrier)
