"""From class scores and box deltas to the final boxes of one image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.ops import boxes as box_ops
from maskrcnn_jax.ops import nms
from maskrcnn_jax.structures import Detections, Proposals


def detect(
    logits: Float[Array, "p k"],
    deltas: Float[Array, "p k 4"],
    proposals: Proposals,
    size: Int[Array, "2"],
    score_threshold: Float[Array, ""],
    *,
    config: DetectionConfig,
    box_weights: tuple[float, ...],
) -> Detections:
    """Every proposal may become a detection of each class; of overlapping boxes of a class the best stays.

    Boxes are clipped to the picture of ``size`` (height, width), small and badly scored ones dropped, duplicates
    removed per class, and the best over all classes returned, without masks yet. Exact for any number of candidates.
    """
    num_proposals, num_classes = logits.shape
    decoded = box_ops.decode(deltas, jnp.expand_dims(proposals.boxes, 1), box_weights)
    decoded = box_ops.clip(decoded, size)[:, 1:].reshape(-1, 4)  # Class 0 is background.
    scores = jax.nn.softmax(logits)[:, 1:].reshape(-1)
    classes = jnp.tile(jnp.arange(1, num_classes, dtype=jnp.int32), num_proposals)

    valid = jnp.repeat(proposals.valid, num_classes - 1)
    valid &= (scores > score_threshold) & box_ops.at_least(decoded, config.min_box_size)
    return best(decoded, classes, scores, valid, config=config)


def best(
    boxes: Float[Array, "n 4"],
    classes: Int[Array, " n"],
    scores: Float[Array, " n"],
    valid: Bool[Array, " n"],
    *,
    config: DetectionConfig,
) -> Detections:
    """The detections that remain where boxes of a class overlap, by descending score, as many as there are slots."""
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    boxes, scores, classes, valid = boxes[order], scores[order], classes[order], valid[order]

    selected, found = nms.select(boxes, valid, classes, config.nms_threshold, num_selected=config.num_detections)
    return Detections(
        boxes=jnp.where(found.reshape(-1, 1), boxes[selected], 0),
        classes=jnp.where(found, classes[selected], 0),
        scores=jnp.where(found, scores[selected], 0),
        masks=None,
        valid=found,
    )
