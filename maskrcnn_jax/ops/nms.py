"""Non-maximum suppression, exactly greedy at any threshold, with static shapes.

A box suppresses another one when it comes earlier, is kept itself, and their IoU is strictly above the threshold. Boxes
are therefore given by descending score, and it is their order that counts: ties are the caller's to break.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.ops import boxes as box_ops


def suppress(
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    threshold: float,
    groups: Int[Array, " n"] | None = None,
) -> Bool[Array, " n"]:
    """Which boxes survive, where boxes that are not valid neither survive nor suppress.

    Only boxes of the same group compete (all, without ``groups``). The IoU is torchvision's, in float32 and without the
    extra pixel; two boxes without area have none (0 / 0) and never suppress each other. Takes memory for ``n x n``
    booleans; `select` does not.
    """
    overlaps = box_ops.pairwise_iou(boxes, boxes) > threshold
    if groups is not None:
        overlaps &= _same(groups, groups)
    order = jnp.arange(boxes.shape[0])
    suppresses = overlaps & (order.reshape(-1, 1) < order.reshape(1, -1))
    return _survivors(suppresses, valid)


def select(
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    groups: Int[Array, " n"],
    threshold: float,
    *,
    num_selected: int,
    block_size: int = 1024,
) -> tuple[Int[Array, " s"], Bool[Array, " s"]]:
    """The first ``num_selected`` survivors of `suppress`, for any number of boxes.

    Works through the boxes in blocks and stops when enough survivors are found or no valid box is left, so the cost
    follows the valid boxes if the others come last (any order gives the same result).

    Returns:
        Indices of the survivors, ascending, and which of the slots are used; the index of an unused slot is 0.
    """
    block_size = min(block_size, boxes.shape[0])
    positions = jnp.arange(boxes.shape[0])
    end = jnp.max(jnp.where(valid, positions + 1, 0), initial=0)  # Behind the last valid box.

    def unfinished(state):
        start, _, count = state
        return (start < end) & (count < num_selected)

    def add_block(state):
        start, selected, count = state
        # The last block reaches back into the one before rather than beyond the end; what it sees twice is left out.
        first = jnp.minimum(start, boxes.shape[0] - block_size)
        block_boxes, block_valid, block_groups, indices = (
            jax.lax.dynamic_slice_in_dim(x, first, block_size) for x in (boxes, valid, groups, positions)
        )
        overlaps = box_ops.pairwise_iou(boxes[selected], block_boxes) > threshold
        overlaps &= _same(groups[selected], block_groups) & (jnp.arange(num_selected) < count).reshape(-1, 1)
        candidates = block_valid & (indices >= start) & ~overlaps.any(axis=0)
        keep = suppress(block_boxes, candidates, threshold, block_groups)
        slots = jnp.where(keep, count + jnp.cumsum(keep) - 1, num_selected)  # Slots behind the last are dropped.
        selected = selected.at[slots].set(indices, mode="drop")
        return start + block_size, selected, jnp.minimum(count + keep.sum(), num_selected)

    zero = end * 0  # Not a constant: a loop inside `shard_map` must start with values that vary as its results do.
    selected = jnp.broadcast_to(zero, (num_selected,))
    _, selected, count = jax.lax.while_loop(unfinished, add_block, (zero, selected, zero))
    return selected, jnp.arange(num_selected) < count


def _survivors(suppresses: Bool[Array, "n n"], candidates: Bool[Array, " n"]) -> Bool[Array, " n"]:
    """The one solution of ``keep = candidates & ~any(suppresses & keep)``, for a strictly upper triangular matrix.

    Each sweep settles at least one more box of every chain of suppressions, whatever the start; real boxes need six to
    nine sweeps, where the greedy rule would take one step per box.
    """

    def sweep(state):
        keep, _ = state
        return candidates & ~(suppresses & keep.reshape(-1, 1)).any(axis=0), keep

    keep, _ = jax.lax.while_loop(lambda state: (state[0] != state[1]).any(), sweep, (candidates, ~candidates))
    return keep


def _same(a: Int[Array, " n"], b: Int[Array, " m"]) -> Bool[Array, "n m"]:
    return a.reshape(-1, 1) == b.reshape(1, -1)
