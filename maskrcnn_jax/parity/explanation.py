"""Explains why a detection of one side is missing on the other.

Two programs that add the same float32 numbers in different orders differ by rounding. Rounding
matters only if a number lies so close to a threshold, or to another number, that a decision
changes. Then a box is added or removed, and boxes that compete with that box follow. Each step of
an explanation names one decision and its margin. A margin above its tolerance explains nothing.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from maskrcnn_jax.parity import pairing, roi_decisions, selection
from maskrcnn_jax.parity.records import Step, Steps
from maskrcnn_jax.parity.selection import Selection, Side

LOGIT_TOLERANCE = 2e-5  # Relative to the largest absolute logit of the level.
SCORE_TOLERANCE = 1e-4
IOU_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 0.01
NO_CANDIDATE = "its box is none of the candidates"


Seen = frozenset[tuple[int, str]]  # Keys explained before, each with the side that lacks the key.


class LeftOver(NamedTuple):
    """A box that only one side has, and the explanation."""

    side: str
    label: int  # 0 for proposals.
    score: float
    box: list[float]  # x0, y0, x1, y1 in pixels of the resized image.
    steps: Steps

    @property
    def explained(self) -> bool:
        """Whether the margin of every step is within its tolerance."""
        return all(step.margin <= step.tolerance for step in self.steps)


def explain_detections(theirs: Side, ours: Side, pairs: pairing.Pairing) -> list[LeftOver]:
    """Explains the unpaired detections of both sides."""
    found = []
    for here, there, indices in ((theirs, ours, pairs.theirs), (ours, theirs, pairs.ours)):
        for i in indices:
            outcome = here.outcome
            steps = _why_unpaired(i, here, there)
            label, score = int(outcome.labels[i]), float(outcome.scores[i])
            found.append(LeftOver(here.name, label, score, outcome.boxes[i].tolist(), steps))
    return found


def explain_proposals(theirs: Side, ours: Side) -> list[LeftOver]:
    """Explains the anchors that are proposals on one side only."""
    found = []
    for here, there in ((theirs, ours), (ours, theirs)):
        candidates = here.proposals
        for key, rank in candidates.rank.items():
            if key in there.proposals.rank:
                continue
            steps = _why_no_proposal(key, here, there, frozenset())
            score = float(candidates.scores[candidates.selected[rank]]) if key >= 0 else math.nan
            box = here.outcome.proposals[rank].tolist()
            found.append(LeftOver(here.name, 0, score, box, steps))
    return found


def _why_unpaired(rank: int, here: Side, there: Side) -> Steps:
    key = here.detections.key(rank)
    if key in there.detections.rank:
        return _why_changed(rank, there.detections.rank[key], here, there)
    return _why_no_detection(key, here, there, frozenset())


def _why_no_detection(key: int, here: Side, there: Side, seen: Seen) -> Steps:
    if key < 0:
        return (_unknown(NO_CANDIDATE),)
    if key in there.detections.position:
        return _why_not_selected(key, here, there, "detections", seen)
    proposal, label = divmod(key, here.config.model.num_classes)
    if proposal not in there.proposals.rank:
        steps = _why_no_proposal(proposal, here, there, seen)
        return (_follows("its proposal is missing"), *steps)
    a, b = here.proposals.rank[proposal], there.proposals.rank[proposal]
    if pooled := _why_pooled_otherwise(a, b, here, there):
        return pooled
    classifier = here.config.model.box_head.classifier
    scores = [
        float(selection.probabilities(side.outcome.class_logits, classifier)[i, label])
        for side, i in ((here, a), (there, b))
    ]
    threshold = here.config.detection.score_threshold
    if scores[1] <= threshold:
        text = f"scores {scores[0]:.7f} and {scores[1]:.7f}, score threshold {threshold}"
        margin = max(abs(score - threshold) for score in scores)
        return (Step(text, margin, SCORE_TOLERANCE),)
    return (_too_small(here.detections, key, here.config.detection.min_box_size),)


def _why_no_proposal(key: int, here: Side, there: Side, seen: Seen) -> Steps:
    if key < 0:
        return (_unknown(NO_CANDIDATE),)
    logit, logits = _objectness(key, there)
    limit = min(there.config.detection.num_candidates, len(logits))
    last = float(np.sort(logits)[-limit])
    by_probability = "probability" in (here.sorts_by, there.sorts_by)
    rounding = selection.rounding_of_probability(last) if by_probability else 0.0
    text = f"objectness {logit:.6f}, candidate {limit} of its level has {last:.6f}"
    tolerance = LOGIT_TOLERANCE * float(np.abs(logits).max()) + rounding
    beyond_last = (Step(text, max(last - logit, 0.0), tolerance),)
    if key in there.proposals.position:
        steps = _why_not_selected(key, here, there, "proposals", seen)
        may_be_beyond = by_probability and logit <= last + rounding
        return min(steps, beyond_last, key=_badness) if may_be_beyond else steps
    if logit <= last:
        return beyond_last
    return (_too_small(here.proposals, key, here.config.model.rpn.min_box_size),)


def _objectness(key: int, side: Side) -> tuple[float, Float[np.ndarray, " n"]]:
    """The logit of an anchor, and the logits of all anchors of its level."""
    for logits in side.outcome.objectness.values():
        if key < len(logits):
            return float(logits[key]), logits
        key -= len(logits)
    raise ValueError(f"there is no anchor {key} beyond the last level")


def _why_not_selected(key: int, here: Side, there: Side, stage: str, seen: Seen) -> Steps:
    """Explains a candidate of both sides that the other side suppresses or has no slot for."""
    if (key, there.name) in seen:
        return (_unknown("its explanation leads back to itself"),)
    seen |= {(key, there.name)}
    rivals = getattr(there, stage)
    score = rivals.scores[rivals.position[key]]
    attempts = []
    for rank in _suppressors(rivals.position[key], rivals):
        attempts.append(_why_suppressed(key, rivals.key(rank), here, there, stage, seen))
    is_full = len(rivals.selected) == rivals.limit
    last = rivals.scores[rivals.selected[-1]] if is_full else -math.inf
    if score <= last + SCORE_TOLERANCE:
        attempts.append(_why_beyond_last(key, float(last), here, there, stage, seen))
    unknown = _unknown(f"nothing there suppresses it or scores like {score:.6f}")
    return min(attempts, key=_badness, default=(unknown,))


def _suppressors(position: int, rivals: Selection) -> list[int]:
    """Ranks of the selected boxes that overlap a candidate enough to suppress it."""
    selected = rivals.selected
    least_overlap = rivals.nms_threshold - _iou_tolerance(position, rivals)
    may = rivals.overlaps(position)[selected] > least_overlap
    may &= rivals.scores[selected] >= rivals.scores[position] - SCORE_TOLERANCE
    return [int(i) for i in np.flatnonzero(may & (selected >= 0) & (selected != position))]


def _why_suppressed(key: int, other: int, here: Side, there: Side, stage: str, seen: Seen) -> Steps:
    """Explains why ``other`` suppresses the candidate on the other side only."""
    own, rivals = getattr(here, stage), getattr(there, stage)
    a, b = own.position[key], own.position.get(other)
    gap = -math.inf if b is None else float(own.scores[a] - own.scores[b])
    # Uniform image regions often have equal logits, which PyTorch sorts in any order.
    tie = Step(f"its score and that of its rival differ by {gap:.1e}", gap, SCORE_TOLERANCE)
    if other in own.rank:
        overlap = _overlap_at_threshold(key, other, own, rivals)
        return (tie, overlap) if gap > 0 else (overlap,)
    if 0 <= gap <= SCORE_TOLERANCE:
        return (tie,)
    steps = _search(stage)(other, there, here, seen)
    return (_follows("suppressed by a box that only the other side has"), *steps)


def _search(stage: str) -> Callable[[int, Side, Side, Seen], Steps]:
    return _why_no_detection if stage == "detections" else _why_no_proposal


def _overlap_at_threshold(key: int, other: int, own: Selection, rivals: Selection) -> Step:
    """Compares the IoU of two boxes, of which one side keeps both, with the threshold."""
    a, b = own.position[key], rivals.position[key]
    ious = [
        float(own.overlaps(a)[own.position[other]]),
        float(rivals.overlaps(b)[rivals.position[other]]),
    ]
    threshold = own.nms_threshold
    tolerance = max(_iou_tolerance(a, own), _iou_tolerance(b, rivals))
    text = f"IoU {ious[0]:.7f} and {ious[1]:.7f} with a better box, threshold {threshold}"
    return Step(text, max(abs(iou - threshold) for iou in ious), tolerance)


def _why_beyond_last(
    key: int, last: float, here: Side, there: Side, stage: str, seen: Seen
) -> Steps:
    """Explains a candidate that lies beyond the last slot, of score ``last``, on the other side."""
    own, rivals = getattr(here, stage), getattr(there, stage)
    gap = last - float(rivals.scores[rivals.position[key]])
    cut = Step(f"{gap:.1e} below the last of {rivals.limit} boxes", max(gap, 0.0), SCORE_TOLERANCE)
    intruders = [
        other
        for other, rank in rivals.rank.items()
        if other not in own.rank and rivals.scores[rivals.selected[rank]] >= last - SCORE_TOLERANCE
    ]
    if cut.margin <= cut.tolerance or not intruders:
        return (cut,)
    chains = [_search(stage)(other, there, here, seen) for other in intruders]
    text = f"one of {rivals.limit} places is taken by a box that only the other side has"
    return (_follows(text), *min(chains, key=_badness))


def _why_changed(a: int, b: int, here: Side, there: Side) -> Steps:
    """Explains a candidate that both sides selected, with different numbers or masks."""
    one, other, config = here.outcome, there.outcome, here.config.model
    i, j = (
        side.proposals.rank[side.detections.key(rank) // config.num_classes]
        for side, rank in ((here, a), (there, b))
    )
    box_error = float(np.abs(one.original_boxes[a] - other.original_boxes[b]).max())
    score_error = abs(float(one.scores[a] - other.scores[b]))
    text = f"box {box_error:.1e} px, score {score_error:.1e}"
    is_box = box_error > pairing.BOX_TOLERANCE or score_error > pairing.SCORE_TOLERANCE
    if is_box or config.mask_head is None:
        steps = _why_pooled_otherwise(i, j, here, there)
    else:
        rois = one.boxes[a], other.boxes[b]
        head = config.box_head if config.box_head.res5 else config.mask_head
        steps = roi_decisions.why_pooled_otherwise(*rois, here, head.resolution)
        if here.config.detection.paste == "expanded":
            drawn_in = one.original_boxes[a], other.original_boxes[b]
            steps = steps or roi_decisions.why_pasted_otherwise(*drawn_in)
        else:
            drawn = (one.original_boxes[a], one.masks[a]), (other.original_boxes[b], other.masks[b])
            steps = steps or roi_decisions.why_drawn_beyond(*drawn)
    if config.mask_head is not None:
        text += f", {pairing.differing_share(one.masks[a], other.masks[b]):.2%} of the mask"
    return steps or (_unknown(f"{text} differ"),)


def _why_pooled_otherwise(a: int, b: int, here: Side, there: Side) -> Steps:
    """Checks whether a stage of the box head pools two versions of an RoI in different ways."""
    resolution = here.config.model.box_head.resolution
    for rois in zip(here.outcome.rois[:, a], there.outcome.rois[:, b], strict=True):
        if steps := roi_decisions.why_pooled_otherwise(*rois, here, resolution):
            return steps
    return ()


def _too_small(candidates: Selection, key: int, least: float) -> Step:
    box = candidates.boxes[[candidates.position[key]]]
    side = float(selection.shorter_side(box)[0])
    text = f"shorter side {side:.6f} px, at least {least} wanted"
    return Step(text, abs(side - least), PIXEL_TOLERANCE)


def _iou_tolerance(position: int, candidates: Selection) -> float:
    """The rounding error of an IoU, and that of coordinates with added offsets."""
    side = float(selection.shorter_side(candidates.boxes[[position]])[0])
    return IOU_TOLERANCE + 4 * candidates.coordinate_rounding / max(side, 1)


def _follows(text: str) -> Step:
    return Step(text, 0.0, 0.0)


def _unknown(text: str) -> Step:
    return Step(text, math.inf, 0.0)


def _badness(steps: Steps) -> float:
    return max(step.margin - step.tolerance for step in steps)
