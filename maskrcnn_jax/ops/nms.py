"""Non-maximum suppression, exactly greedy at any threshold, with static shapes.

A box suppresses another one when it comes earlier, is kept itself, and their IoU is strictly above the threshold. Boxes
are therefore given by descending score, and it is their order that counts: ties are the caller's to break.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt16

from maskrcnn_jax.ops import boxes as box_ops

WORD = 16  # Bits.
LANES = 8  # Words that a processor works on at once; their number is a multiple of it.
GPU_SWEEPS = 12  # What real boxes need, and some more.


def suppress(
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    threshold: float,
    groups: Int[Array, " n"] | None = None,
) -> Bool[Array, " n"]:
    """Which boxes survive, where boxes that are not valid neither survive nor suppress.

    Only boxes of the same group compete (all, without ``groups``). The IoU is torchvision's, in float32 and without the
    extra pixel; two boxes without area have none (0 / 0) and never suppress each other. Takes memory for ``n x n``
    bits; `select` does not.
    """
    return _survivors(_suppressors(boxes, threshold, groups), valid)


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


def _suppressors(
    boxes: Float[Array, "n 4"], threshold: float, groups: Int[Array, " n"] | None
) -> UInt16[Array, "n words"]:
    """For each box, a bit for every other one: whether it comes before, is of the same group and overlaps too much.

    Bit k of word w is box ``k * words + w``. Words instead of booleans, because they are read again in every sweep.
    """
    count = boxes.shape[0]
    words = -(-count // (WORD * LANES)) * LANES
    # Coordinate by coordinate, so that neighbouring words read neighbouring numbers.
    parts = jax.lax.optimization_barrier(jnp.pad(boxes, ((0, WORD * words - count), (0, 0))).T).reshape(4, WORD, words)
    group_parts = None if groups is None else jnp.pad(groups, (0, WORD * words - count)).reshape(WORD, words)
    order = jnp.arange(count).reshape(-1, 1)
    bits = jnp.zeros((count, words), jnp.uint16)
    # Unrolled, so that XLA makes it one loop that stores nothing but words.
    for k in range(WORD):
        overlaps = box_ops.pairwise_iou(boxes, parts[:, k].T) > threshold
        overlaps &= k * words + jnp.arange(words).reshape(1, -1) < order
        if groups is not None:
            overlaps &= _same(groups, group_parts[k])
        bits |= overlaps.astype(jnp.uint16) << k
    return bits


def _survivors(suppressors: UInt16[Array, "n words"], candidates: Bool[Array, " n"]) -> Bool[Array, " n"]:
    """Which candidates no survivor suppresses. A GPU asks its host for each turn of a loop that may end any time.

    So it takes as many sweeps as are nearly always enough before it asks once: sweeps too many change nothing.
    """
    fixed, asking = partial(_sweep, num_sweeps=GPU_SWEEPS), partial(_sweep, num_sweeps=0)
    return jax.lax.platform_dependent(suppressors, candidates, cuda=fixed, rocm=fixed, default=asking)


def _sweep(
    suppressors: UInt16[Array, "n words"], candidates: Bool[Array, " n"], *, num_sweeps: int
) -> Bool[Array, " n"]:
    """The one solution of ``keep = candidates & ~any(suppressors & keep)``, where no box has one that comes later.

    Each sweep settles at least one more box of every chain of suppressions, whatever the start; real boxes need six to
    nine sweeps, where the greedy rule would take one step per box. The first ``num_sweeps`` are taken in any case.
    """
    count, words = suppressors.shape

    def sweep(state: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, _ = state
        parts = jnp.pad(keep, (0, WORD * words - count)).reshape(WORD, words).astype(jnp.uint16)
        kept = (parts << jnp.arange(WORD, dtype=jnp.uint16).reshape(-1, 1)).sum(axis=0, dtype=jnp.uint16)
        return candidates & ~((suppressors & kept.reshape(1, -1)) != 0).any(axis=1), keep

    state = jax.lax.fori_loop(0, num_sweeps, lambda _, state: sweep(state), (candidates, ~candidates))
    return jax.lax.while_loop(lambda state: (state[0] != state[1]).any(), sweep, state)[0]


def _same(a: Int[Array, " n"], b: Int[Array, " m"]) -> Bool[Array, "n m"]:
    return a.reshape(-1, 1) == b.reshape(1, -1)
