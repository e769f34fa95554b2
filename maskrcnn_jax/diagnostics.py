"""What to watch while the losses fall: how many samples there are of each kind, and how many the heads get right.

As sums and counts, like the losses: they add up over devices and micro-batches. Nobody learns from them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.structures import AnchorTargets, RoITargets, SumAndCount


def counts(anchors: AnchorTargets, rois: RoITargets, num_surplus: Int[Array, " b"]) -> dict[str, SumAndCount]:
    """Per image: anchors and RoIs in the losses that match an object or none, and objects that found no slot."""
    num_images = jnp.float32(len(num_surplus))
    sums = {
        "positive_anchors": _count(anchors.positive),
        "negative_anchors": _count(anchors.valid & ~anchors.positive),
        "positive_rois": _count(rois.positive),
        "negative_rois": _count(rois.valid & ~rois.positive),
        "surplus_instances": num_surplus.sum(dtype=jnp.float32),
    }
    return {name: (total, num_images) for name, total in sums.items()}


def box_accuracy(logits: Float[Array, "b r k"], targets: RoITargets) -> dict[str, SumAndCount]:
    """The share of RoIs that get their class, of positive ones that do, and of these that are taken for background."""
    found = logits.argmax(-1)
    right = found == targets.classes
    num_positive = _count(targets.positive)
    return {
        "classification_accuracy": (_count(right & targets.valid), _count(targets.valid)),
        "foreground_accuracy": (_count(right & targets.positive), num_positive),
        "false_negatives": (_count((found == 0) & targets.positive), num_positive),
    }


def mask_accuracy(
    logits: Float[Array, "b r m m"], masks: Float[Array, "b r m m"], targets: RoITargets
) -> dict[str, SumAndCount]:
    """The share of mask cells that are right, and the wrong ones of those outside and of those inside of objects.

    Cells are those of positive RoIs and their class. A cell is inside if at least half of it is, and found to be if its
    probability is above a half.
    """
    found = logits > 0
    positive = targets.positive.reshape(*targets.positive.shape, 1, 1)
    inside, outside = positive & (masks >= 0.5), positive & (masks < 0.5)
    num_inside, num_outside = _count(inside), _count(outside)
    missed, surplus = _count(inside & ~found), _count(outside & found)
    num_cells = num_inside + num_outside
    return {
        "mask_accuracy": (num_cells - missed - surplus, num_cells),
        "mask_false_positives": (surplus, num_outside),
        "mask_false_negatives": (missed, num_inside),
    }


def _count(chosen: Bool[Array, "..."]) -> Float[Array, ""]:
    return chosen.sum(dtype=jnp.float32)
