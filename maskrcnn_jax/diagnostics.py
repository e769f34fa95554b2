"""Diagnostics of training: how many samples there are of each kind, and how accurate the heads are.

They are sums and counts, like the losses, and are added over devices and micro-batches. They have
no influence on training.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.structures import AnchorTargets, RoITargets, Sums


def sample_counts(
    anchors: AnchorTargets,
    rois: RoITargets,
    num_surplus: Int[Array, " b"],
    num_removed: Int[Array, " b"] | None = None,
) -> Sums:
    """Per image: positive and negative anchors and RoIs, and objects without a slot.

    ``removed_instances``, the objects that transforms removed, is there only if they were counted.
    ``missing_images`` is the share of images of size 0: every other one has an anchor in the loss.
    """
    num_images = jnp.float32(len(num_surplus))
    sums = {
        "positive_anchors": _count(anchors.positive),
        "negative_anchors": _count(anchors.valid & ~anchors.positive),
        "positive_rois": _count(rois.positive),
        "negative_rois": _count(rois.valid & ~rois.positive),
        "surplus_instances": num_surplus.sum(dtype=jnp.float32),
        "missing_images": _count(~anchors.valid.any(1)),
    }
    if num_removed is not None:
        sums["removed_instances"] = num_removed.sum(dtype=jnp.float32)
    return {name: (total, num_images) for name, total in sums.items()}


def box_accuracy(
    logits: Float[Array, "b r k"], targets: RoITargets, classifier: str = "softmax"
) -> Sums:
    """The accuracy of the classes, over all RoIs and over positive ones.

    ``false_negatives`` is the share of positive RoIs that are classified as background. With the
    classifier "sigmoid" these are the RoIs whose classes all have probabilities of at most 0.5.
    """
    if classifier == "sigmoid":
        logits = logits.at[..., 0].set(0)
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
) -> Sums:
    """The share of correct mask cells, and the shares of wrong ones outside and inside objects.

    The masks are those of the true class of positive RoIs. A cell counts as inside an object if at
    least half of it is, and as predicted inside if its probability is above 0.5.
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
