"""From scored anchors to the best boxes that do not overlap much: the proposals of one image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.config import RPNConfig
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
) -> Proposals:
    """Keeps the best anchors of each level, moves them, removes duplicates within the level, then merges the levels.

    Args:
        logits: Per level, the objectness of its anchors.
        deltas: Per level, how to move them.
        size: Height and width of the picture; boxes are clipped to it.
        canvas: Height and width of the padded picture; anchors beyond it do not exist.
        shapes: Per level, height and width of the feature map.
        num_candidates: Anchors per level that are looked at.
        num_proposals: Proposals at most, over all levels.

    No gradient flows through proposals: the heads learn on them as they are (section 3.2 of Faster R-CNN).
    """
    grids = anchors.pyramid_anchors(shapes, canvas, config.anchor_sizes, config.aspect_ratios)
    candidates = [
        _level_candidates(logits[level], deltas[level], *grids[level], num_candidates, config.box_weights)
        for level in sorted(grids)
    ]
    scores, candidate_boxes = map(jnp.stack, zip(*candidates, strict=True))  # [l, n], [l, n, 4]

    candidate_boxes = boxes.clip(candidate_boxes, size)
    large = boxes.at_least(candidate_boxes, config.min_box_size)
    valid = large & (scores >= max(config.score_threshold, 0.0))
    keep = jax.vmap(lambda b, v: nms.suppress(b, v, config.nms_threshold))(candidate_boxes, valid)

    # top_k takes the first of equals: ties go to the finer level, then to the larger logit.
    scores = jnp.where(keep, scores, -1.0).reshape(-1)
    scores, order = ranking.top_k(scores, min(num_proposals, scores.size))
    selected = jnp.where((scores >= 0).reshape(-1, 1), candidate_boxes.reshape(-1, 4)[order], 0)
    return jax.lax.stop_gradient(Proposals(selected, scores >= 0))


def _level_candidates(
    logits: Float[Array, " n"],
    deltas: Float[Array, "n 4"],
    grid: Float[Array, "n 4"],
    inside: Bool[Array, " n"],
    count: int,
    box_weights: tuple[float, ...],
) -> tuple[Float[Array, " m"], Float[Array, "m 4"]]:
    """Probabilities and decoded boxes of the best anchors of a level, padded with -1 to ``count``."""
    logits, best = ranking.top_k(jnp.where(inside, logits, -jnp.inf), min(count, len(logits)))
    scores = jnp.where(inside[best], jax.nn.sigmoid(logits), -1.0)
    decoded = boxes.decode(deltas[best], grid[best], box_weights)
    padding = count - len(best)
    return jnp.pad(scores, (0, padding), constant_values=-1.0), jnp.pad(decoded, ((0, padding), (0, 0)))
