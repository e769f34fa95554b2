"""Matching of candidate boxes (anchors, proposals) with ground-truth instances."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.ops import slots
from maskrcnn_jax.ops.loops import batch_max, varying_zero
from maskrcnn_jax.ops.rounding import ceil_div

# Overlaps that exist at once. All overlaps of anchors with objects would be the largest array of a
# training step; so many stay in the caches of a CPU and in the vector memory of a TPU.
OVERLAPS_AT_ONCE = 2**20

Overlaps = Callable[[Float[Array, "s _"]], Float[Array, "s n"]]


class Best(NamedTuple):
    """The closest instance of each candidate among those seen."""

    iou: Float[Array, " n"]
    instance: Int[Array, " n"]
    closest_to: Int[Array, " n"]  # The last instance to which no candidate is closer; or -1.


def match(
    instances: Float[Array, "g _"],
    valid: Bool[Array, " g"],
    overlaps: Overlaps,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: str = "none",
    min_low_quality_iou: float = 0.0,
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Assigns to each candidate its closest instance (the first of equals) and a label.

    Args:
        instances: Boxes of the instances.
        valid: The slots that hold an instance; the others are ignored.
        overlaps: The overlap of some instances with all candidates. NaN, the overlap of two boxes
            without area, matches nothing.
        positive_iou: Candidates with at least this overlap are positive.
        negative_iou: Candidates with less overlap than this are negative.
        low_quality: For each instance, also make the candidates with the largest overlap positive,
            ties included (section 3.1.2 of Faster R-CNN), so that each instance has at least one.
            With "label" such a candidate keeps its own closest instance, which may be another one.
            With "assign" it gets this instance, or the last of several. "none" has no such rule.
        min_low_quality_iou: The overlap from which on this rule holds.

    Returns:
        The index of the instance, and the label: 1 positive, 0 negative, -1 between the thresholds.
        Without a valid instance all candidates are negative.
    """
    best = jax.lax.platform_dependent(
        instances,
        valid,
        cuda=partial(_match_at_once, overlaps=overlaps, min_iou=min_low_quality_iou),
        default=partial(_match_in_chunks, overlaps=overlaps, min_iou=min_low_quality_iou),
    )
    instance = best.instance
    between = jnp.where(best.iou < negative_iou, 0, -1)
    is_positive = best.iou >= positive_iou
    if low_quality != "none":
        is_positive |= best.closest_to >= 0
    if low_quality == "assign":
        instance = jnp.where(best.closest_to >= 0, best.closest_to, instance)
    return instance, jnp.where(is_positive, 1, between).astype(jnp.int32)


def _match_at_once(instances: Array, valid: Array, *, overlaps: Overlaps, min_iou: float) -> Best:
    """For GPUs: to compute the overlaps twice is faster than to store them.

    Their compiler contracts no multiplications and additions, so both have the same bits.
    """
    closest = _valid_overlaps(overlaps, instances, valid).max(axis=1, keepdims=True)
    # Without the barrier, XLA would store the overlaps of the line above.
    again = _valid_overlaps(overlaps, *jax.lax.optimization_barrier((instances, valid)))
    return _best_of(again, closest, min_iou)


def _match_in_chunks(instances: Array, valid: Array, *, overlaps: Overlaps, min_iou: float) -> Best:
    """Matches a few instances at a time, and no slots behind the last instance."""
    num_candidates = jax.eval_shape(overlaps, instances).shape[1]
    size = max(1, min(len(instances), OVERLAPS_AT_ONCE // max(1, num_candidates)))
    chunks, valid_chunks = slots.split(instances, size), slots.split(valid, size)

    def add_chunk(i: Array, best: Best) -> Best:
        iou = _valid_overlaps(overlaps, chunks[i], valid_chunks[i])
        # The barrier is for correctness. Recomputed in another fusion, an overlap can differ in the
        # last place, and the comparison for equality would lose matches.
        iou = jax.lax.optimization_barrier(iou)
        found = _best_of(iou, iou.max(axis=1, keepdims=True), min_iou)
        is_better = found.iou > best.iou
        return Best(
            jnp.where(is_better, found.iou, best.iou),
            jnp.where(is_better, i * size + found.instance, best.instance),
            jnp.where(found.closest_to >= 0, i * size + found.closest_to, best.closest_to),
        )

    used = jnp.max(jnp.where(valid, jnp.arange(len(valid)) + 1, 0), initial=0)
    zeros = jnp.broadcast_to(varying_zero(used, jnp.float32), num_candidates)
    start = Best(zeros - 1, zeros.astype(jnp.int32), (zeros - 1).astype(jnp.int32))
    return jax.lax.fori_loop(0, batch_max(ceil_div(used, size)), add_chunk, start)


def _valid_overlaps(overlaps: Overlaps, instances: Array, valid: Array) -> Float[Array, "s n"]:
    """Overlaps, or -1 for slots without an instance and for two boxes without area."""
    iou = overlaps(instances)
    return jnp.where(valid.reshape(-1, 1) & (iou >= 0), iou, -1.0)


def _best_of(iou: Float[Array, "s n"], closest: Float[Array, "s 1"], min_iou: float) -> Best:
    """Reduces overlaps to `Best`; ``closest`` is the largest overlap of each instance."""
    # -1 is the overlap of an empty slot. An instance that nothing overlaps has 0.
    is_closest = (iou == closest) & (closest >= min_iou)
    index = jnp.arange(len(iou)).reshape(-1, 1)
    closest_to = jnp.where(is_closest, index, -1).max(axis=0).astype(jnp.int32)
    return Best(iou.max(axis=0), iou.argmax(axis=0).astype(jnp.int32), closest_to)
