"""Which detections of two sides are the same ones: same label, and box, score and mask within rounding."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from maskrcnn_jax.parity.records import Outcome

BOX_TOLERANCE = 0.05  # Pixels of the original image.
SCORE_TOLERANCE = 1e-4
MASK_TOLERANCE = 1e-3  # Of a probability ...
PIXEL_SHARE = 1e-3  # ... at all but this share of the pixels.


class Pairing(NamedTuple):
    """Indices of the detections that belong together, and of those left over on either side."""

    pairs: list[tuple[int, int]]  # Theirs, ours.
    theirs: list[int]
    ours: list[int]
    box_error: float  # Largest of the pairs, in pixels.
    score_error: float
    mask_share: float  # Largest share of a mask's pixels that differ.


def pair(theirs: Outcome, ours: Outcome) -> Pairing:
    """Pairs each of their detections with the nearest of ours that is free and within all tolerances."""
    free = np.ones(len(ours.labels), bool)
    pairs, shares = [], []
    for i, (box, label, score) in enumerate(zip(theirs.original_boxes, theirs.labels, theirs.scores, strict=True)):
        distances = np.abs(ours.original_boxes - box).max(axis=1, initial=0)
        near = free & (ours.labels == label) & (distances <= BOX_TOLERANCE)
        near &= np.abs(ours.scores - score) <= SCORE_TOLERANCE
        for j in sorted(np.flatnonzero(near), key=lambda j: distances[j]):
            share = differing_share(theirs.masks[i], ours.masks[j])
            if share <= PIXEL_SHARE:
                free[j] = False
                pairs.append((i, int(j)))
                shares.append(share)
                break
    first, second = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    return Pairing(
        pairs,
        theirs=[i for i in range(len(theirs.labels)) if i not in first],
        ours=[int(j) for j in np.flatnonzero(free)],
        box_error=float(np.abs(theirs.original_boxes[first] - ours.original_boxes[second]).max(initial=0)),
        score_error=float(np.abs(theirs.scores[first] - ours.scores[second]).max(initial=0)),
        mask_share=max(shares, default=0.0),
    )


def differing_share(a: Float32[np.ndarray, "h w"], b: Float32[np.ndarray, "h w"]) -> float:
    """Of the pixels that either mask reaches, the share where they differ; stricter than of the whole image."""
    reached = np.count_nonzero((a > 0) | (b > 0))
    return np.count_nonzero(np.abs(a - b) > MASK_TOLERANCE) / max(reached, 1)
