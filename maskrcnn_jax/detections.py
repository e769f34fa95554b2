"""From class scores and box deltas to the final boxes of one image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.ops import boxes, nms
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
    decoded = boxes.decode(deltas, jnp.expand_dims(proposals.boxes, 1), box_weights)
    decoded = boxes.clip(decoded, size)[:, 1:].reshape(-1, 4)  # Class 0 is background.
    scores = jax.nn.softmax(logits)[:, 1:].reshape(-1)
    classes = jnp.tile(jnp.arange(1, num_classes, dtype=jnp.int32), num_proposals)

    valid = jnp.repeat(proposals.valid, num_classes - 1)
    valid &= (scores > score_threshold) & boxes.at_least(decoded, config.min_box_size)
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    decoded, scores, classes, valid = decoded[order], scores[order], classes[order], valid[order]

    selected, found = nms.select(decoded, valid, classes, config.nms_threshold, num_selected=config.num_detections)
    return Detections(
        boxes=jnp.where(found.reshape(-1, 1), decoded[selected], 0),
        classes=jnp.where(found, classes[selected], 0),
        scores=jnp.where(found, scores[selected], 0),
        masks=None,
        valid=found,
    )
