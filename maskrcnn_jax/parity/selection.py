"""Recomputes how one side selected proposals and detections.

NumPy computes the candidates and their scores from the side's logits and deltas, and finds the
selected candidates from the boxes that the side returned. A candidate has the same key on both
sides. The key of a proposal is the index of its anchor among all levels. The key of a detection is
the key of its proposal times the number of classes, plus the class.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn_jax.config import Config
from maskrcnn_jax.ops.boxes import MAX_LOG_SCALE
from maskrcnn_jax.parity.records import Outcome

SAME_BOX = 0.05  # Pixels. A returned box this close to a candidate is the same box.
SAME_SCORE = 1e-4
# Probabilities near 1, as float32 numbers, are this far apart.
PROBABILITY_STEP = float(np.spacing(np.float32(0.5)))


@dataclass(frozen=True)
class Selection:
    """Candidates that NMS suppresses within groups, and of which the best are then selected.

    The groups are the levels of the pyramid for proposals, and the classes for detections.
    """

    keys: Int[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    selected: Int[np.ndarray, " s"]  # Indices of candidates, best first; -1 if none fits.
    nms_threshold: float
    limit: int  # The largest number of selected boxes.
    max_boxes_with_offsets: int  # As in `Peer`; 0 for ours.

    @functools.cached_property
    def position(self) -> dict[int, int]:
        """The index of each key among the candidates."""
        return {int(key): i for i, key in enumerate(self.keys)}

    @functools.cached_property
    def rank(self) -> dict[int, int]:
        """The index of each key among the selected boxes."""
        return {self.key(i): i for i in range(len(self.selected))}

    def key(self, rank: int) -> int:
        """The key of a selected box; a unique negative number if the box matches no candidate."""
        return int(self.keys[self.selected[rank]]) if self.selected[rank] >= 0 else -1 - rank

    def overlaps(self, position: int) -> Float[np.ndarray, " n"]:
        """The IoU of one candidate with all candidates; zero across groups."""
        a, b = self.boxes[position].astype(np.float64), self.boxes.astype(np.float64)
        sides = np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])
        intersection = np.maximum(sides, 0).prod(axis=1)
        union = (a[2:] - a[:2]).prod() + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection
        iou = intersection / np.maximum(union, 1e-12)
        return np.where(self.groups == self.groups[position], iou, 0)

    @functools.cached_property
    def coordinate_rounding(self) -> float:
        """The rounding error of coordinates with offsets, in pixels; 0 without offsets."""
        if not 0 < len(self.boxes) <= self.max_boxes_with_offsets:
            return 0.0
        largest = (self.groups.max() + 1) * (self.boxes.max() + 1)
        return float(np.spacing(np.float32(largest)))


@dataclass(frozen=True)
class Side:
    """The outcome of one side for an image, and its two selections."""

    name: str
    outcome: Outcome
    config: Config
    max_boxes_with_offsets: int = 0  # As in `Peer`; 0 for ours.
    sorts_by: str = "logit"  # As in `Peer`.

    @functools.cached_property
    def proposals(self) -> Selection:
        """Selects proposals from anchors; the groups are the levels."""
        outcome, config, detection = self.outcome, self.config.model.rpn, self.config.detection
        parts, first = [], 0
        for level, logits in outcome.objectness.items():
            best = np.argsort(-logits, kind="stable")[: self._num_candidates(logits)]
            deltas, anchors = outcome.deltas[level][best], outcome.anchors[level][best]
            boxes = decode(deltas, anchors, config.box_weights, self.config.model.limit_shrinking)
            boxes = clip(boxes, outcome.size)
            parts.append((best + first, np.full(len(best), level), sigmoid(logits[best]), boxes))
            first += len(logits)
        keys, groups, scores, boxes = map(np.concatenate, zip(*parts, strict=True))
        sides = shorter_side(boxes)
        large = (sides >= config.min_box_size) & (sides > 0)
        keys, groups, scores, boxes = keys[large], groups[large], scores[large], boxes[large]
        fits = np.ones((len(outcome.proposals), len(boxes)), bool)
        return Selection(
            keys,
            groups,
            scores,
            boxes,
            selected=_locate(outcome.proposals, boxes, fits),
            nms_threshold=config.nms_threshold,
            limit=detection.num_proposals,
            max_boxes_with_offsets=self.max_boxes_with_offsets,
        )

    def _num_candidates(self, logits: Float[np.ndarray, " n"]) -> int:
        """How many anchors of a level may compete: more than the limit if the last ones are equal.

        A program that sorts probabilities may take any of those that float32 cannot tell apart.
        """
        limit = min(self.config.detection.num_candidates, len(logits))
        if self.sorts_by == "logit":
            return limit
        last = float(np.sort(logits)[-limit])
        return int(np.count_nonzero(logits >= last - rounding_of_probability(last)))

    @functools.cached_property
    def detections(self) -> Selection:
        """Selects detections from proposals; the groups are the classes."""
        outcome, config, model = self.outcome, self.config.detection, self.config.model
        scores = probabilities(outcome.class_logits, model.box_head.classifier)
        scores[:, 0] = 0  # Background is never detected.
        rows, classes = np.nonzero(scores > config.score_threshold)
        # The last deltas are the only ones if they are for all classes.
        deltas = outcome.class_deltas[rows, np.minimum(classes, outcome.class_deltas.shape[1] - 1)]
        weights = model.cascade.box_weights[-1] if model.cascade else model.roi.box_weights
        boxes = decode(deltas, outcome.rois[-1][rows], weights, model.limit_shrinking)
        boxes = clip(boxes, outcome.size)
        large = shorter_side(boxes) >= config.min_box_size
        rows, classes, boxes = rows[large], classes[large], boxes[large]
        scores = scores[rows, classes]
        proposal_keys = [self.proposals.key(i) for i in range(len(outcome.proposals))]
        keys = np.array(proposal_keys, np.int64)[rows] * model.num_classes + classes
        fits = outcome.labels[:, None] == classes[None]
        fits &= np.abs(outcome.scores[:, None] - scores[None]) < SAME_SCORE
        return Selection(
            keys,
            classes,
            scores,
            boxes,
            selected=_locate(outcome.boxes, boxes, fits),
            nms_threshold=config.nms_threshold,
            limit=config.num_detections,
            max_boxes_with_offsets=self.max_boxes_with_offsets,
        )


def _locate(
    found: Float[np.ndarray, "s 4"], boxes: Float[np.ndarray, "n 4"], fits: Bool[np.ndarray, "s n"]
) -> Int[np.ndarray, " s"]:
    """Index of the nearest free fitting candidate of each found box, the first of ties, or -1."""
    positions = np.full(len(found), -1)
    free = np.ones(len(boxes), bool)
    for i, box in enumerate(found):
        distances = np.where(free & fits[i], np.abs(boxes - box).max(axis=1), np.inf)
        if distances.min(initial=np.inf) < SAME_BOX:
            # Clipping can make several candidates equal; take the first.
            positions[i] = int((distances < distances.min() + 1e-4).argmax())
            free[positions[i]] = False
    return positions


def decode(
    deltas: Float[np.ndarray, "n 4"],
    anchors: Float[np.ndarray, "n 4"],
    weights: tuple[float, ...],
    limit_shrinking: bool = False,
) -> Float[np.ndarray, "n 4"]:
    """`ops.boxes.decode` in float64."""
    deltas = deltas.astype(np.float64) / np.array(weights)
    anchors = anchors.astype(np.float64)
    sizes = anchors[:, 2:] - anchors[:, :2]
    centers = anchors[:, :2] + 0.5 * sizes + deltas[:, :2] * sizes
    least = -MAX_LOG_SCALE if limit_shrinking else -np.inf
    half = 0.5 * sizes * np.exp(np.clip(deltas[:, 2:], least, MAX_LOG_SCALE))
    return np.concatenate([centers - half, centers + half], axis=1)


def clip(boxes: Float[np.ndarray, "n 4"], size: tuple[int, int]) -> Float[np.ndarray, "n 4"]:
    """Clips boxes to an image of ``size`` (height, width)."""
    return np.clip(boxes, 0, np.array([size[1], size[0], size[1], size[0]], np.float64))


def shorter_side(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """The smaller of width and height of each box, in pixels."""
    return (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)


def sigmoid(logits: Float[np.ndarray, "*axes"]) -> Float[np.ndarray, "*axes"]:
    """Probabilities in float64."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def rounding_of_probability(logit: float) -> float:
    """How far apart two logits near this one may be whose float32 probabilities are equal.

    Numbers near 1 are one step apart, and a sigmoid in float32 may be wrong by another.
    """
    slope = math.exp(-abs(logit)) / (1 + math.exp(-abs(logit))) ** 2
    return 2 * PROBABILITY_STEP / max(slope, 1e-30)


def probabilities(logits: Float[np.ndarray, "n k"], classifier: str) -> Float[np.ndarray, "n k"]:
    """Probabilities of the classes in each row, in float64; see `BoxHeadConfig.classifier`."""
    if classifier == "sigmoid":
        return sigmoid(logits)
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
