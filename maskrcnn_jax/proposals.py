"""Scored anchors to the proposals of one image: the best boxes that do not overlap much."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.model_config import RPNConfig
from maskrcnn_jax.ops import anchors, boxes, nms, ranking
from maskrcnn_jax.structures import Proposals


def propose(
    logits: dict[int, Float[Array, " _"]],
    deltas: dict[int, Float[Array, "_ 4"]],
    size: Int[Array, "2"],
    canvas: Int[Array, "2"],
    *,
    shapes: dict[int, tuple[int, int]],
    config: RPNConfig,
    num_candidates: int,
    num_proposals: int,
    limit_shrinking: bool = False,
) -> Proposals:
    """Decodes the best anchors of each level, suppresses duplicates per level, merges the levels.

    No gradient flows through proposals: the heads take them as constants (section 3.2 of Faster
    R-CNN).

    Args:
        logits: Per level, the objectness logits of its anchors.
        deltas: Per level, the deltas of its anchors.
        size: Height and width of the image in pixels; boxes are clipped to it.
        canvas: Height and width of the padded image in pixels; anchors beyond it are ignored.
        shapes: Per level, height and width of the feature map.
        config: Anchors and thresholds.
        num_candidates: Anchors per level that enter non-maximum suppression.
        num_proposals: Slots of the result, over all levels.
        limit_shrinking: As in `boxes.decode`.
    """
    grids = anchors.pyramid_anchors(shapes, canvas, **config.anchors)
    decode = partial(
        _level_candidates,
        count=num_candidates,
        box_weights=config.box_weights,
        limit_shrinking=limit_shrinking,
    )
    candidates = [decode(logits[level], deltas[level], *grids[level]) for level in sorted(grids)]
    scores, candidate_boxes = map(jnp.stack, zip(*candidates, strict=True))  # [l, n], [l, n, 4]

    candidate_boxes = boxes.clip(candidate_boxes, size)
    large = boxes.has_min_side(candidate_boxes, config.min_box_size)
    large &= boxes.has_area(candidate_boxes)
    valid = large & (scores >= max(config.score_threshold, 0.0))
    suppress = partial(nms.suppress, threshold=config.nms_threshold)
    keep = jax.vmap(suppress)(candidate_boxes, valid)

    # Ties go to the finer level, then to the larger logit: top_k takes the first of equal scores.
    scores = jnp.where(keep, scores, -1.0).reshape(-1)
    scores, order = ranking.top_k(scores, min(num_proposals, scores.size))
    selected = jnp.where((scores >= 0).reshape(-1, 1), candidate_boxes.reshape(-1, 4)[order], 0)
    return jax.lax.stop_gradient(Proposals(selected, scores >= 0))


def _level_candidates(
    logits: Float[Array, " n"],
    deltas: Float[Array, "n 4"],
    grid: Float[Array, "n 4"],
    inside: Bool[Array, " n"],
    *,
    count: int,
    box_weights: tuple[float, ...],
    limit_shrinking: bool,
) -> tuple[Float[Array, " m"], Float[Array, "m 4"]]:
    """Probabilities and decoded boxes of the ``count`` best anchors of a level.

    Slots without an anchor have a probability of -1.
    """
    logits, best = ranking.top_k(jnp.where(inside, logits, -jnp.inf), min(count, len(logits)))
    scores = jnp.where(inside[best], jax.nn.sigmoid(logits), -1.0)
    decoded = boxes.decode(
        boxes.take(deltas, best), boxes.take(grid, best), box_weights, limit_shrinking
    )
    padding = count - len(best)
    scores = jnp.pad(scores, (0, padding), constant_values=-1.0)
    return scores, jnp.pad(decoded, ((0, padding), (0, 0)))
