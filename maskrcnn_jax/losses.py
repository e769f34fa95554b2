"""The five losses over a batch, each as a sum and the count to divide it by.

Sums and counts are added over devices and micro-batches and divided once: a mean of means is
another number if the counts differ. Padded slots add to neither.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from maskrcnn_jax.ops import boxes
from maskrcnn_jax.structures import AnchorTargets, RoITargets, SumAndCount, Sums

BoxWeights = tuple[float, float, float, float]


def rpn_loss(
    logits: Float[Array, "b s"],
    deltas: Float[Array, "b s 4"],
    targets: AnchorTargets,
    *,
    beta: float,
    divisor: str = "drawn",
    form: str = "smooth_l1",
    weight: float = 1.0,
    box_weights: BoxWeights = (1.0, 1.0, 1.0, 1.0),
) -> Sums:
    """Objectness and box regression of the sampled anchors (Eq. 1 of Faster R-CNN).

    Both losses are divided by the same number of anchors.

    Args:
        logits: Objectness logits of the sampled anchors.
        deltas: Their deltas.
        targets: Their labels and target deltas.
        beta: Where the smooth L1 loss turns from quadratic to linear; 0 is plain L1.
        form: Of the box loss, "smooth_l1" or "giou".
        weight: Factor of the box loss.
        box_weights: Scale of the deltas, which only "giou" needs.
        divisor: The anchors to count: "drawn" or "fixed" or "mmdetection", see `RPNConfig`.
    """
    positive = targets.positive.astype(jnp.float32)
    objectness = optax.sigmoid_binary_cross_entropy(logits, positive)
    count = _num_anchors(targets, divisor)
    given = deltas, targets.deltas, targets.positive
    total = _box_total(*given, form, beta, box_weights)
    return {
        "loss_objectness": (jnp.where(targets.valid, objectness, 0).sum(), count),
        "loss_rpn_box_reg": (weight * total, count),
    }


def box_loss(
    logits: Float[Array, "b r k"],
    deltas: Float[Array, "b r _k 4"],
    targets: RoITargets,
    counted: Bool[Array, "b k"] | None = None,
    *,
    beta: float,
    form: str = "smooth_l1",
    weight: float = 1.0,
    box_weights: BoxWeights = (10.0, 10.0, 5.0, 5.0),
) -> Sums:
    """Classification and box regression of the sampled RoIs (Eq. 1 of Fast R-CNN).

    Both losses are divided by the number of sampled RoIs. The classification is the cross-entropy
    of all classes, or the sum of the binary cross-entropies of the counted classes.

    Args:
        logits: Class logits, background first.
        deltas: Deltas of each class, of which the loss reads those of the true class; or those for
            all classes, with an axis of length 1.
        targets: Classes and target deltas.
        counted: From `targets.counted_classes`; None for the cross-entropy of all classes.
        beta: Where the smooth L1 loss turns from quadratic to linear; 0 is plain L1.
        form: Of the box loss, "smooth_l1" or "giou".
        weight: Factor of the box loss.
        box_weights: Scale of the deltas, which only "giou" needs.
    """
    classes = targets.classes
    classification = _classification(logits, classes, counted)
    if deltas.shape[2] > 1:
        deltas = jnp.take_along_axis(deltas, jnp.expand_dims(classes, (2, 3)), axis=2)
    deltas = deltas.squeeze(2)
    count = targets.valid.sum(dtype=jnp.float32)
    given = deltas, targets.deltas, targets.positive
    total = _box_total(*given, form, beta, box_weights)
    return {
        "loss_classifier": (jnp.where(targets.valid, classification, 0).sum(), count),
        "loss_box_reg": (weight * total, count),
    }


def mask_loss(
    logits: Float[Array, "b r m m"], masks: Float[Array, "b r m m"], targets: RoITargets
) -> Sums:
    """Binary cross-entropy of the mask of the true class (section 3 of Mask R-CNN).

    It is the mean over the mask cells of all positive RoIs.

    Args:
        logits: Mask logits of the true class of each RoI.
        masks: Target masks in [0, 1].
        targets: The RoIs.
    """
    cells = optax.sigmoid_binary_cross_entropy(logits, masks)
    positive = targets.positive.reshape(*targets.positive.shape, 1, 1)
    count = targets.positive.sum(dtype=jnp.float32) * masks.shape[-1] * masks.shape[-2]
    return {"loss_mask": (jnp.where(positive, cells, 0).sum(), count)}


def mean(sum_and_count: SumAndCount) -> Float[Array, ""]:
    """Sum over count; zero, with zero gradient, where nothing was counted."""
    total, count = sum_and_count
    return total / jnp.maximum(count, 1)


def _num_anchors(targets: AnchorTargets, divisor: str) -> Float[Array, ""]:
    """The divisor of the losses of the RPN. Images without any sample, such as lost ones, add 0."""
    valid = targets.valid.sum(axis=1, dtype=jnp.float32)
    positive = targets.positive.sum(axis=1, dtype=jnp.float32)
    match divisor:
        case "fixed":
            counts = jnp.full_like(valid, targets.valid.shape[1])
        case "mmdetection":
            counts = jnp.maximum(positive, 1) + jnp.maximum(valid - positive, 1)
        case _:
            counts = valid
    return jnp.where(valid > 0, counts, 0).sum()


def _box_total(
    deltas: Float[Array, "b s 4"],
    targets: Float[Array, "b s 4"],
    positive: Bool[Array, "b s"],
    form: str,
    beta: float,
    box_weights: BoxWeights,
) -> Float[Array, ""]:
    """The box loss summed over the positives."""
    if form == "smooth_l1":
        return _smooth_l1(deltas, targets, positive, beta)
    # The overlap of two boxes is the same in units of the box that their deltas belong to.
    unit = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), deltas.shape)
    found = boxes.decode(deltas, unit, box_weights)
    loss = 1 - boxes.generalised_iou(found, boxes.decode(targets, unit, box_weights))
    return jnp.where(positive, loss, 0).sum()


def _classification(logits: Array, classes: Array, counted: Array | None) -> Float[Array, "b r"]:
    """The loss of the class of each RoI; arguments as in `box_loss`."""
    if counted is None:
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    is_class = jax.nn.one_hot(classes, logits.shape[-1])
    cells = optax.sigmoid_binary_cross_entropy(logits, is_class)
    return jnp.where(jnp.expand_dims(counted, 1), cells, 0)[..., 1:].sum(-1)


def _smooth_l1(deltas: Array, targets: Array, positive: Array, beta: float) -> Float[Array, ""]:
    """The smooth L1 loss summed over the positives: quadratic below ``beta``, linear above.

    With a ``beta`` of 0 it is plain L1.
    """
    error = jnp.abs(deltas - targets)
    if beta == 0:
        # The gradient at 0 is 0, as in PyTorch; that of jnp.abs is not.
        loss = jnp.maximum(deltas - targets, targets - deltas)
    else:
        loss = jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)
    return jnp.where(jnp.expand_dims(positive, -1), loss, 0).sum()
