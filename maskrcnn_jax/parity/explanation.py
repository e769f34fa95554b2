"""Why a detection of one side is missing on the other: which decision fell differently, and how narrowly.

Two programs that add the same float32 numbers in another order differ by rounding. That is invisible until a number
lies so close to a threshold, or to another number, that a decision changes; then a box is there or not, and others that
compete with it follow. Each step of an explanation names one decision and its margin, and a margin above its tolerance
explains nothing.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from maskrcnn_jax.parity import pairing, selection
from maskrcnn_jax.parity.selection import Selection, Side

LOGIT_TOLERANCE = 2e-5  # Of the largest logit of the level.
SCORE_TOLERANCE = 1e-4
IOU_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 0.01
CELL_TOLERANCE = 1e-3  # Of positions on feature maps, in cells.
LEVEL_TOLERANCE = 1e-4  # Of the logarithm that assigns an RoI to a level.
GROWTH = 30 / 28  # A mask of 28 cells gets a border of one cell before it is pasted.


class Step(NamedTuple):
    """One decision that fell differently, or followed from the next one."""

    text: str
    margin: float  # How far the numbers are from deciding otherwise; infinite if nothing was found.
    tolerance: float


class LeftOver(NamedTuple):
    """A box that one side has alone."""

    side: str
    label: int  # Zero for proposals.
    score: float
    box: list[float]  # x0, y0, x1, y1 in pixels of the resized image.
    steps: tuple[Step, ...]

    @property
    def explained(self) -> bool:
        """Whether every step is within rounding."""
        return all(step.margin <= step.tolerance for step in self.steps)


def explain_detections(theirs: Side, ours: Side, pairs: pairing.Pairing) -> list[LeftOver]:
    """Explains the detections that were left over, on either side."""
    found = []
    for here, there, indices in ((theirs, ours, pairs.theirs), (ours, theirs, pairs.ours)):
        for i in indices:
            outcome = here.outcome
            steps = _why_unpaired(i, here, there)
            label, score, box = int(outcome.labels[i]), float(outcome.scores[i]), outcome.boxes[i].tolist()
            found.append(LeftOver(here.name, label, score, box, steps))
    return found


def explain_proposals(theirs: Side, ours: Side) -> list[LeftOver]:
    """Explains the anchors that became proposals on one side only."""
    found = []
    for here, there in ((theirs, ours), (ours, theirs)):
        for key, rank in here.proposals.rank.items():
            if key not in there.proposals.rank:
                steps = _why_no_proposal(key, here, there, frozenset())
                score = float(here.proposals.scores[here.proposals.selected[rank]]) if key >= 0 else math.nan
                found.append(LeftOver(here.name, 0, score, here.outcome.proposals[rank].tolist(), steps))
    return found


def _why_unpaired(rank: int, here: Side, there: Side) -> tuple[Step, ...]:
    key = here.detections.key(rank)
    if key in there.detections.rank:
        return _why_changed(rank, there.detections.rank[key], here, there)
    return _why_no_detection(key, here, there, frozenset())


def _why_no_detection(key: int, here: Side, there: Side, seen: frozenset) -> tuple[Step, ...]:
    if key < 0:
        return (_unknown("its box is none of those that were worked out anew"),)
    if key in there.detections.position:
        return _why_not_selected(key, here, there, "detections", seen)
    proposal, label = divmod(key, here.config.num_classes)
    if proposal not in there.proposals.rank:
        return (_follows("its proposal is missing"), *_why_no_proposal(proposal, here, there, seen))
    a, b = here.proposals.rank[proposal], there.proposals.rank[proposal]
    resolution = here.config.roi.box_resolution
    pooled = _why_pooled_otherwise(here.outcome.proposals[a], there.outcome.proposals[b], here, resolution)
    if pooled:
        return pooled
    scores = [float(selection.softmax(side.outcome.class_logits)[i, label]) for side, i in ((here, a), (there, b))]
    threshold = here.config.detection.score_threshold
    if scores[1] <= threshold:
        text = f"scores {scores[0]:.7f} and {scores[1]:.7f}, score threshold {threshold}"
        return (Step(text, max(abs(score - threshold) for score in scores), SCORE_TOLERANCE),)
    return (_too_small(here.detections, key, here.config.detection.min_box_size),)


def _why_no_proposal(key: int, here: Side, there: Side, seen: frozenset) -> tuple[Step, ...]:
    if key < 0:
        return (_unknown("its box is none of those that were worked out anew"),)
    if key in there.proposals.position:
        return _why_not_selected(key, here, there, "proposals", seen)
    logit, logits = _objectness(key, there)
    limit = min(there.config.rpn.test_num_candidates, len(logits))
    last = float(np.sort(logits)[-limit])
    if logit <= last:
        text = f"objectness {logit:.6f}, candidate {limit} of its level has {last:.6f}"
        return (Step(text, last - logit, LOGIT_TOLERANCE * float(np.abs(logits).max())),)
    return (_too_small(here.proposals, key, here.config.rpn.min_box_size),)


def _objectness(key: int, side: Side) -> tuple[float, Float[np.ndarray, " n"]]:
    """The logit of an anchor, and those of all anchors of its level."""
    for logits in side.outcome.objectness.values():
        if key < len(logits):
            return float(logits[key]), logits
        key -= len(logits)
    raise ValueError(f"there is no anchor {key} beyond the last level")


def _why_not_selected(key: int, here: Side, there: Side, stage: str, seen: frozenset) -> tuple[Step, ...]:
    """Why a candidate on both sides is selected here only: suppressed there, or beyond the last slot."""
    if (key, there.name) in seen:
        return (_unknown("its explanation leads back to itself"),)
    seen |= {(key, there.name)}
    rivals = getattr(there, stage)
    score = rivals.scores[rivals.position[key]]
    attempts = []
    for rank in _suppressors(rivals.position[key], rivals):
        attempts.append(_why_suppressed(key, rivals.key(rank), here, there, stage, seen))
    last = rivals.scores[rivals.selected[-1]] if len(rivals.selected) == rivals.limit else -math.inf
    if score <= last + SCORE_TOLERANCE:
        attempts.append(_why_beyond_last(key, float(last), here, there, stage, seen))
    return min(attempts, key=_badness, default=(_unknown(f"nothing there suppresses it or scores like {score:.6f}"),))


def _suppressors(position: int, rivals: Selection) -> list[int]:
    """Ranks of the selected boxes that may suppress a candidate."""
    selected = rivals.selected
    high = rivals.overlaps(position)[selected] > rivals.nms_threshold - _iou_tolerance(position, rivals)
    high &= rivals.scores[selected] >= rivals.scores[position] - SCORE_TOLERANCE
    return [int(i) for i in np.flatnonzero(high & (selected >= 0) & (selected != position))]


def _why_suppressed(key: int, other: int, here: Side, there: Side, stage: str, seen: frozenset) -> tuple[Step, ...]:
    own, rivals = getattr(here, stage), getattr(there, stage)
    a, b = own.position[key], own.position.get(other)
    gap = -math.inf if b is None else float(own.scores[a] - own.scores[b])
    # Equal logits are common where a picture is uniform, and torchvision promises no order among equals.
    tie = Step(f"its score and that of its rival differ by {gap:.1e}", gap, SCORE_TOLERANCE)
    if other in own.rank:
        overlap = _overlap_at_threshold(key, other, own, rivals)
        return (tie, overlap) if gap > 0 else (overlap,)
    if 0 <= gap <= SCORE_TOLERANCE:
        return (tie,)
    search = _why_no_detection if stage == "detections" else _why_no_proposal
    return (_follows("suppressed by a box that only the other side has"), *search(other, there, here, seen))


def _overlap_at_threshold(key: int, other: int, own: Selection, rivals: Selection) -> Step:
    """How two boxes that one side keeps both overlap on either side."""
    a, b = own.position[key], rivals.position[key]
    ious = float(own.overlaps(a)[own.position[other]]), float(rivals.overlaps(b)[rivals.position[other]])
    threshold, tolerance = own.nms_threshold, max(_iou_tolerance(a, own), _iou_tolerance(b, rivals))
    text = f"IoU {ious[0]:.7f} and {ious[1]:.7f} with a better box, threshold {threshold}"
    return Step(text, max(abs(iou - threshold) for iou in ious), tolerance)


def _why_beyond_last(key: int, last: float, here: Side, there: Side, stage: str, seen: frozenset) -> tuple[Step, ...]:
    own, rivals = getattr(here, stage), getattr(there, stage)
    gap = last - float(rivals.scores[rivals.position[key]])
    cut = Step(f"{gap:.1e} below the last of {rivals.limit} boxes", max(gap, 0.0), SCORE_TOLERANCE)
    intruders = [
        other
        for rank, other in enumerate(rivals.rank)
        if other not in own.rank and rivals.scores[rivals.selected[rank]] >= last - SCORE_TOLERANCE
    ]
    if cut.margin <= cut.tolerance or not intruders:
        return (cut,)
    search = _why_no_detection if stage == "detections" else _why_no_proposal
    chains = [search(other, there, here, seen) for other in intruders]
    text = f"one of {rivals.limit} places is taken by a box that only the other side has"
    return (_follows(text), *min(chains, key=_badness))


def _why_changed(a: int, b: int, here: Side, there: Side) -> tuple[Step, ...]:
    """Why the same candidate was selected on both sides, with other numbers or another mask."""
    one, other, config = here.outcome, there.outcome, here.config.roi
    i, j = (
        side.proposals.rank[side.detections.key(rank) // side.config.num_classes]
        for side, rank in ((here, a), (there, b))
    )
    box_error = float(np.abs(one.original_boxes[a] - other.original_boxes[b]).max())
    score_error = abs(float(one.scores[a] - other.scores[b]))
    if box_error > pairing.BOX_TOLERANCE or score_error > pairing.SCORE_TOLERANCE:
        steps = _why_pooled_otherwise(one.proposals[i], other.proposals[j], here, config.box_resolution)
    else:
        steps = _why_pooled_otherwise(one.boxes[a], other.boxes[b], here, config.mask_resolution)
        steps = steps or _why_pasted_otherwise(one.original_boxes[a], other.original_boxes[b])
    share = pairing.differing_share(one.masks[a], other.masks[b])
    return steps or (_unknown(f"box {box_error:.1e} px, score {score_error:.1e}, {share:.2%} of the mask differ"),)


def _why_pooled_otherwise(
    one: Float[np.ndarray, " 4"], other: Float[np.ndarray, " 4"], side: Side, resolution: int
) -> tuple[Step, ...]:
    """Whether two versions of an RoI go to different levels, or a sample of one falls off the feature map."""
    exact = [
        4 + math.log2(max(math.sqrt(np.prod((box[2:] - box[:2]).astype(np.float64))), 1e-9) / 224)
        for box in (one, other)
    ]
    levels = [min(max(math.floor(value + 1e-6), 2), 5) for value in exact]
    if levels[0] != levels[1]:
        boundary = max(levels)
        text = f"level {exact[0]:.7f} and {exact[1]:.7f} of its RoI, boundary {boundary}"
        return (Step(text, max(abs(value - boundary) for value in exact), LEVEL_TOLERANCE),)
    extent = -(-np.array(side.outcome.canvas) // 2 ** levels[0])[::-1]
    samples = [
        _sample_positions(box / 2 ** levels[0], resolution, side.config.roi.sampling_ratio) for box in (one, other)
    ]
    outside = [positions > extent for positions in samples]
    if (outside[0] == outside[1]).all():
        return ()
    margin = max(np.abs(positions - extent)[outside[0] != outside[1]].max() for positions in samples)
    return (Step(f"a sample of its RoI is {margin:.1e} cells from the border", float(margin), CELL_TOLERANCE),)


def _sample_positions(box: Float[np.ndarray, " 4"], resolution: int, sampling_ratio: int) -> Float[np.ndarray, "s 2"]:
    """Where RoIAlign samples, (x, y) in cells, without the half pixel that torchvision leaves out."""
    length = np.maximum(box[2:] - box[:2], 1).astype(np.float64)
    count = resolution * max(sampling_ratio, 1)
    return box[:2] + (np.arange(count)[:, None] + 0.5) / count * length


def _why_pasted_otherwise(one: Float[np.ndarray, " 4"], other: Float[np.ndarray, " 4"]) -> tuple[Step, ...]:
    """Whether the corners of the grown box, truncated to whole pixels, differ."""
    corners = []
    for box in (one, other):
        center, half = (box[:2] + box[2:]) * 0.5, (box[2:] - box[:2]) * 0.5
        corners.append(np.concatenate([center - half * GROWTH, center + half * GROWTH]))
    differ = np.trunc(corners[0]) != np.trunc(corners[1])
    if not differ.any():
        return ()
    values = corners[0][differ], corners[1][differ]
    margin = max(float(np.abs(value - np.rint(value)).max()) for value in values)
    text = f"its mask is pasted from a corner at {values[0][0]:.5f} and {values[1][0]:.5f}, truncated to whole pixels"
    return (Step(text, margin, PIXEL_TOLERANCE),)


def _too_small(candidates: Selection, key: int, least: float) -> Step:
    side = float(selection.shorter_side(candidates.boxes[[candidates.position[key]]])[0])
    return Step(f"shorter side {side:.6f} px, at least {least} wanted", abs(side - least), PIXEL_TOLERANCE)


def _iou_tolerance(position: int, candidates: Selection) -> float:
    """Rounding of an IoU: of itself, and of coordinates to which offsets were added."""
    side = float(selection.shorter_side(candidates.boxes[[position]])[0])
    return IOU_TOLERANCE + 4 * candidates.coordinate_rounding / max(side, 1)


def _follows(text: str) -> Step:
    return Step(text, 0.0, 0.0)


def _unknown(text: str) -> Step:
    return Step(text, math.inf, 0.0)


def _badness(steps: tuple[Step, ...]) -> float:
    return max(step.margin - step.tolerance for step in steps)
