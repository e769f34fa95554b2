"""Class logits and box deltas to the final boxes of one image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.ops import boxes as box_ops
from maskrcnn_jax.ops import nms
from maskrcnn_jax.structures import Detections, Proposals


def detect(
    logits: Float[Array, "p k"],
    deltas: Float[Array, "p _k 4"],
    proposals: Proposals,
    size: Int[Array, "2"],
    score_threshold: Float[Array, ""],
    *,
    config: DetectionConfig,
    box_weights: tuple[float, ...],
    limit_shrinking: bool = False,
    classifier: str = "softmax",
) -> Detections:
    """Turns each proposal into one candidate per class, and keeps the best; without masks.

    The result is exact for any number of candidates.

    Args:
        logits: Class logits of each proposal, background first.
        deltas: From the proposal to its object: per class, or for all classes.
        proposals: The boxes that the logits and deltas belong to.
        size: Height and width of the image in pixels; boxes are clipped to it.
        score_threshold: Candidates must score above it.
        config: Thresholds and the number of detections.
        box_weights: Scale of the deltas.
        limit_shrinking: As in `boxes.decode`.
        classifier: "softmax" or "sigmoid", see `BoxHeadConfig`.
    """
    boxes = decode(deltas, proposals, size, box_weights, limit_shrinking)
    scores = jax.nn.softmax(logits) if classifier == "softmax" else jax.nn.sigmoid(logits)
    num_proposals, num_classes = logits.shape
    classes = jnp.tile(jnp.arange(1, num_classes, dtype=jnp.int32), num_proposals)
    boxes, scores = boxes[:, 1 - num_classes :], scores[:, 1:].reshape(-1)  # Without background.
    # One box for all classes becomes one for each.
    boxes = jnp.broadcast_to(boxes, (num_proposals, num_classes - 1, 4)).reshape(-1, 4)
    valid = jnp.repeat(proposals.valid, num_classes - 1)
    valid &= (scores > score_threshold) & box_ops.has_min_side(boxes, config.min_box_size)
    return keep_best(boxes, classes, scores, valid, config=config)


def decode(
    deltas: Float[Array, "p _k 4"],
    proposals: Proposals,
    size: Int[Array, "2"],
    box_weights: tuple[float, ...],
    limit_shrinking: bool = False,
) -> Float[Array, "p _k 4"]:
    """Moves each proposal by its deltas and clips it to the image.

    ``size`` is the height and width of the image in pixels.
    """
    rows = jnp.expand_dims(proposals.boxes, 1)
    decoded = box_ops.decode(deltas, rows, box_weights, limit_shrinking)
    return box_ops.clip(decoded, size)


def keep_best(
    boxes: Float[Array, "n 4"],
    classes: Int[Array, " n"],
    scores: Float[Array, " n"],
    valid: Bool[Array, " n"],
    *,
    config: DetectionConfig,
) -> Detections:
    """Suppresses overlapping boxes of each class and returns the best of the rest.

    Args:
        boxes: Candidates, in pixels.
        classes: Their classes; boxes of different classes do not suppress each other.
        scores: Their scores.
        valid: The candidates that take part.
        config: The threshold and the number of detections.
    """
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    boxes, scores, classes, valid = boxes[order], scores[order], classes[order], valid[order]

    selected, found = nms.select(
        boxes, valid, classes, config.nms_threshold, num_selected=config.num_detections
    )
    return Detections(
        boxes=jnp.where(found.reshape(-1, 1), boxes[selected], 0),
        classes=jnp.where(found, classes[selected], 0),
        scores=jnp.where(found, scores[selected], 0),
        masks=None,
        valid=found,
    )
