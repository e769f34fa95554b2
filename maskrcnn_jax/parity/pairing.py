"""Pairs detections of two sides that have one label, and equal boxes, scores and masks.

Equal means within a tolerance for rounding.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from maskrcnn_jax.parity.records import Outcome

BOX_TOLERANCE = 0.05  # Pixels of the original image.
SCORE_TOLERANCE = 1e-4
# Probabilities of a mask may differ by more than `MASK_TOLERANCE` at this share of its pixels.
MASK_TOLERANCE = 1e-3
PIXEL_SHARE = 1e-3
INSIDE = 0.5  # Pixels above this probability belong to the object.


class Pairing(NamedTuple):
    """Indices of paired detections, and of the unpaired ones of each side."""

    pairs: list[tuple[int, int]]  # (the peer's index, our index)
    theirs: list[int]
    ours: list[int]
    box_error: float  # The largest of all pairs, in pixels.
    score_error: float
    mask_share: float | None  # The largest `differing_share`; None without masks.
    # Over all pairs, the pixels that belong to the peer's objects, and those that belong to the
    # object of one side only; 0 without masks.
    num_pixels: int = 0
    num_differing: int = 0


def pair(theirs: Outcome, ours: Outcome) -> Pairing:
    """Pairs each detection of ``theirs`` with the nearest free one of ``ours`` within tolerance."""
    free = np.ones(len(ours.labels), bool)
    pairs, shares = [], []
    num_pixels = num_differing = 0
    for i, box in enumerate(theirs.original_boxes):
        distances = np.abs(ours.original_boxes - box).max(axis=1, initial=0)
        near = free & (ours.labels == theirs.labels[i]) & (distances <= BOX_TOLERANCE)
        near &= np.abs(ours.scores - theirs.scores[i]) <= SCORE_TOLERANCE
        for j in sorted(np.flatnonzero(near), key=lambda j: distances[j]):
            share = 0.0 if theirs.masks is None else differing_share(theirs.masks[i], ours.masks[j])
            if share <= PIXEL_SHARE:
                free[j] = False
                pairs.append((i, int(j)))
                shares.append(share)
                if theirs.masks is not None:
                    inside = theirs.masks[i] > INSIDE
                    num_pixels += int(np.count_nonzero(inside))
                    num_differing += int(np.count_nonzero(inside != (ours.masks[j] > INSIDE)))
                break
    first, second = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    box_errors = np.abs(theirs.original_boxes[first] - ours.original_boxes[second])
    score_errors = np.abs(theirs.scores[first] - ours.scores[second])
    return Pairing(
        pairs,
        theirs=[i for i in range(len(theirs.labels)) if i not in first],
        ours=[int(j) for j in np.flatnonzero(free)],
        box_error=float(box_errors.max(initial=0)),
        score_error=float(score_errors.max(initial=0)),
        mask_share=None if theirs.masks is None else max(shares, default=0.0),
        num_pixels=num_pixels,
        num_differing=num_differing,
    )


def differing_share(a: Float32[np.ndarray, "h w"], b: Float32[np.ndarray, "h w"]) -> float:
    """The share of differing pixels among the pixels that either mask covers.

    The share among all pixels of the image would hide differences of small masks.
    """
    reached = np.count_nonzero((a > 0) | (b > 0))
    return np.count_nonzero(np.abs(a - b) > MASK_TOLERANCE) / max(reached, 1)
