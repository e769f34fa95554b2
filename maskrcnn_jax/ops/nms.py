"""Non-maximum suppression, exactly greedy at any threshold, with static shapes.

A box suppresses a later one if it is kept itself and their IoU is strictly above the threshold.
Boxes are given by descending score. Only their order counts, so callers break ties.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt16

from maskrcnn_jax.ops import boxes as box_ops
from maskrcnn_jax.ops.loops import varying_zero
from maskrcnn_jax.ops.rounding import ceil_div

WORD = 16  # Bits.
LANES = 8  # The number of words is a multiple of this: a processor works on so many at once.
GPU_SWEEPS = 12  # Real boxes need six to nine.


def suppress(
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    threshold: float,
    groups: Int[Array, " n"] | None = None,
) -> Bool[Array, " n"]:
    """Whether each box survives; boxes that are not valid neither survive nor suppress.

    The IoU is torchvision's, in float32 and without the extra pixel. Two boxes without area have no
    IoU (0 / 0) and never suppress each other. This takes memory for ``n x n`` bits; `select` does
    not.

    Args:
        boxes: In pixels, by descending score.
        valid: The boxes that take part.
        threshold: A box suppresses others with a larger IoU.
        groups: Only boxes of the same group compete; by default all do.
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

    Visits the boxes in blocks, and stops when it has enough survivors or no valid box is left. If
    the valid boxes come first, its cost follows their number; the result is right in any case.

    Args:
        boxes: In pixels, by descending score.
        valid: The boxes that take part.
        groups: Only boxes of the same group compete.
        threshold: A box suppresses others with a larger IoU.
        num_selected: Slots of the result.
        block_size: Boxes in a block.

    Returns:
        Indices of the survivors, ascending, and whether each slot is used; the index of an unused
        slot is 0.
    """
    block_size = min(block_size, boxes.shape[0])
    positions = jnp.arange(boxes.shape[0])
    end = jnp.max(jnp.where(valid, positions + 1, 0), initial=0)  # One past the last valid box.

    def unfinished(state):
        start, _, count = state
        return (start < end) & (count < num_selected)

    def add_block(state):
        start, selected, count = state
        # The last block overlaps the one before instead of reaching beyond the end of the array;
        # the comparison of indices with start leaves out the boxes that it repeats.
        first = jnp.minimum(start, boxes.shape[0] - block_size)
        take_block = partial(jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=block_size)
        block_boxes, block_valid, block_groups, indices = map(
            take_block, (boxes, valid, groups, positions)
        )
        overlaps = box_ops.pairwise_iou(boxes[selected], block_boxes) > threshold
        overlaps &= _same(groups[selected], block_groups)
        overlaps &= (jnp.arange(num_selected) < count).reshape(-1, 1)
        candidates = block_valid & (indices >= start) & ~overlaps.any(axis=0)
        keep = suppress(block_boxes, candidates, threshold, block_groups)
        # Slots beyond the last are dropped.
        slots = jnp.where(keep, count + jnp.cumsum(keep) - 1, num_selected)
        selected = selected.at[slots].set(indices, mode="drop")
        return start + block_size, selected, jnp.minimum(count + keep.sum(), num_selected)

    zero = varying_zero(end, end.dtype)
    selected = jnp.broadcast_to(zero, (num_selected,))
    _, selected, count = jax.lax.while_loop(unfinished, add_block, (zero, selected, zero))
    return selected, jnp.arange(num_selected) < count


def _suppressors(
    boxes: Float[Array, "n 4"], threshold: float, groups: Int[Array, " n"] | None
) -> UInt16[Array, "n words"]:
    """For each box, one bit per box: whether that box precedes it and would suppress it.

    Bit k of word w is box ``k * words + w``. Every sweep reads all bits again, so they are packed
    into words.
    """
    count = boxes.shape[0]
    words = ceil_div(count, WORD * LANES) * LANES
    # Coordinates first, so that neighbouring words read neighbouring numbers.
    coordinates = jnp.pad(boxes, ((0, WORD * words - count), (0, 0))).T
    parts = jax.lax.optimization_barrier(coordinates).reshape(4, WORD, words)
    if groups is not None:
        group_parts = jnp.pad(groups, (0, WORD * words - count)).reshape(WORD, words)
    order = jnp.arange(count).reshape(-1, 1)
    bits = jnp.zeros((count, words), jnp.uint16)
    # Unrolled, so that XLA fuses all iterations into one loop that stores only the words.
    for k in range(WORD):
        overlaps = box_ops.pairwise_iou(boxes, parts[:, k].T) > threshold
        overlaps &= k * words + jnp.arange(words).reshape(1, -1) < order
        if groups is not None:
            overlaps &= _same(groups, group_parts[k])
        bits |= overlaps.astype(jnp.uint16) << k
    return bits


def _survivors(
    suppressors: UInt16[Array, "n words"], candidates: Bool[Array, " n"]
) -> Bool[Array, " n"]:
    """Whether each candidate survives: it does unless a survivor suppresses it.

    On a GPU, each turn of a while loop waits for the host. So a fixed number of sweeps, nearly
    always enough, comes before that loop there; further sweeps change nothing.
    """
    fixed, default = partial(_sweep, num_sweeps=GPU_SWEEPS), partial(_sweep, num_sweeps=0)
    arguments = suppressors, candidates
    return jax.lax.platform_dependent(*arguments, cuda=fixed, rocm=fixed, default=default)


def _sweep(
    suppressors: UInt16[Array, "n words"], candidates: Bool[Array, " n"], *, num_sweeps: int
) -> Bool[Array, " n"]:
    """The solution of ``keep = candidates & ~any(suppressors & keep)``.

    It is unique, because only earlier boxes suppress a box. Each sweep settles at least one more
    box of every chain of suppressions, whatever the start. Real boxes need six to nine sweeps; the
    greedy rule would take one step per box.

    Args:
        suppressors: From `_suppressors`.
        candidates: The boxes that may survive.
        num_sweeps: Sweeps before the first test whether another one is needed.
    """
    count, words = suppressors.shape

    def sweep(state: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, _ = state
        parts = jnp.pad(keep, (0, WORD * words - count)).reshape(WORD, words).astype(jnp.uint16)
        bits = parts << jnp.arange(WORD, dtype=jnp.uint16).reshape(-1, 1)
        kept = bits.sum(axis=0, dtype=jnp.uint16)
        is_suppressed = ((suppressors & kept.reshape(1, -1)) != 0).any(axis=1)
        return candidates & ~is_suppressed, keep

    def changed(state: tuple[Array, Array]) -> Array:
        keep, before = state
        return (keep != before).any()

    start = candidates, ~candidates
    state = jax.lax.fori_loop(0, num_sweeps, lambda _, state: sweep(state), start)
    return jax.lax.while_loop(changed, sweep, state)[0]


def _same(a: Int[Array, " n"], b: Int[Array, " m"]) -> Bool[Array, "n m"]:
    return a.reshape(-1, 1) == b.reshape(1, -1)
