"""How one side chose proposals and detections: who competed, with which scores and boxes, and who was selected.

Worked out anew in NumPy from what the side computed, and from the boxes it returned. A candidate has the same key on
both sides: the number of its anchor among those of all levels, and of that its class.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.ops.boxes import MAX_LOG_SCALE
from maskrcnn_jax.parity.records import Outcome

SAME_BOX = 0.05  # Pixels within which a returned box is one that was worked out anew.
SAME_SCORE = 1e-4

# Up to this many boxes torchvision separates classes and levels by adding offsets to the coordinates, on the CPU.
MAX_BOXES_WITH_OFFSETS = 1000


@dataclass(frozen=True)
class Selection:
    """Boxes that compete within their groups: of those that overlap the best stays, then the best of all are taken."""

    keys: Int[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    selected: Int[np.ndarray, " s"]  # Positions among the candidates, best first; -1 where none fits.
    nms_threshold: float
    limit: int  # At most so many are taken.
    adds_offsets: bool  # Whether this side may separate groups by adding offsets to coordinates.

    @functools.cached_property
    def position(self) -> dict[int, int]:
        """Where among the candidates a key is."""
        return {int(key): i for i, key in enumerate(self.keys)}

    @functools.cached_property
    def rank(self) -> dict[int, int]:
        """Where among the selected a key is."""
        return {self.key(i): i for i in range(len(self.selected))}

    def key(self, rank: int) -> int:
        """The key of a selected box; a negative one of its own if it was not among the candidates."""
        return int(self.keys[self.selected[rank]]) if self.selected[rank] >= 0 else -1 - rank

    def overlaps(self, position: int) -> Float[np.ndarray, " n"]:
        """IoU of one candidate with all others of its group; zero for those of other groups."""
        a, b = self.boxes[position].astype(np.float64), self.boxes.astype(np.float64)
        sides = np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])
        intersection = np.maximum(sides, 0).prod(axis=1)
        union = (a[2:] - a[:2]).prod() + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection
        return np.where(self.groups == self.groups[position], intersection / np.maximum(union, 1e-12), 0)

    @functools.cached_property
    def coordinate_rounding(self) -> float:
        """Pixels by which coordinates are rounded where offsets are added to them."""
        if not self.adds_offsets or not 0 < len(self.boxes) <= MAX_BOXES_WITH_OFFSETS:
            return 0.0
        return float(np.spacing(np.float32((self.groups.max() + 1) * (self.boxes.max() + 1))))


@dataclass(frozen=True)
class Side:
    """What one side computed for an image, and its two selections."""

    name: str
    outcome: Outcome
    config: ModelConfig
    adds_offsets: bool = False

    @functools.cached_property
    def proposals(self) -> Selection:
        """Anchors to proposals; the groups are the levels."""
        outcome, config = self.outcome, self.config.rpn
        parts, first = [], 0
        for level, logits in outcome.objectness.items():
            best = np.argsort(-logits, kind="stable")[: config.test_num_candidates]
            boxes = decode(outcome.deltas[level][best], outcome.anchors[level][best], config.box_weights)
            parts.append((best + first, np.full(len(best), level), sigmoid(logits[best]), clip(boxes, outcome.size)))
            first += len(logits)
        keys, groups, scores, boxes = map(np.concatenate, zip(*parts, strict=True))
        large = shorter_side(boxes) >= config.min_box_size
        selected = _locate(outcome.proposals, boxes[large], np.ones((len(outcome.proposals), large.sum()), bool))
        candidates = keys[large], groups[large], scores[large], boxes[large]
        limits = config.nms_threshold, config.test_num_proposals
        return Selection(*candidates, selected, *limits, self.adds_offsets)

    @functools.cached_property
    def detections(self) -> Selection:
        """Proposals to detections; the groups are the classes."""
        outcome, config = self.outcome, self.config.detection
        scores = softmax(outcome.class_logits)
        scores[:, 0] = 0  # Background.
        rows, classes = np.nonzero(scores > config.score_threshold)
        boxes = decode(outcome.class_deltas[rows, classes], outcome.proposals[rows], self.config.roi.box_weights)
        boxes = clip(boxes, outcome.size)
        large = shorter_side(boxes) >= config.min_box_size
        rows, classes, boxes = rows[large], classes[large], boxes[large]
        scores = scores[rows, classes]
        proposal_keys = np.array([self.proposals.key(i) for i in range(len(outcome.proposals))], np.int64)
        keys = proposal_keys[rows] * self.config.num_classes + classes
        fits = outcome.labels[:, None] == classes[None]
        fits &= np.abs(outcome.scores[:, None] - scores[None]) < SAME_SCORE
        selected = _locate(outcome.boxes, boxes, fits)
        limits = config.nms_threshold, config.num_detections
        return Selection(keys, classes, scores, boxes, selected, *limits, self.adds_offsets)


def _locate(
    found: Float[np.ndarray, "s 4"], boxes: Float[np.ndarray, "n 4"], fits: Bool[np.ndarray, "s n"]
) -> Int[np.ndarray, " s"]:
    """For each box that was found the nearest candidate that fits and is free, the first of equals; -1 if none is."""
    positions = np.full(len(found), -1)
    free = np.ones(len(boxes), bool)
    for i, box in enumerate(found):
        distances = np.where(free & fits[i], np.abs(boxes - box).max(axis=1), np.inf)
        if distances.min(initial=np.inf) < SAME_BOX:
            positions[i] = int((distances < distances.min() + 1e-4).argmax())  # Clipping makes boxes equal.
            free[positions[i]] = False
    return positions


def decode(
    deltas: Float[np.ndarray, "n 4"], anchors: Float[np.ndarray, "n 4"], weights: tuple[float, ...]
) -> Float[np.ndarray, "n 4"]:
    """`ops.boxes.decode`, in float64."""
    deltas, anchors = deltas.astype(np.float64) / np.array(weights), anchors.astype(np.float64)
    sizes = anchors[:, 2:] - anchors[:, :2]
    centers = anchors[:, :2] + 0.5 * sizes + deltas[:, :2] * sizes
    half = 0.5 * sizes * np.exp(np.minimum(deltas[:, 2:], MAX_LOG_SCALE))
    return np.concatenate([centers - half, centers + half], axis=1)


def clip(boxes: Float[np.ndarray, "n 4"], size: tuple[int, int]) -> Float[np.ndarray, "n 4"]:
    """Moves corners outside an image of ``size`` (height, width) onto its border."""
    return np.clip(boxes, 0, np.array([size[1], size[0], size[1], size[0]], np.float64))


def shorter_side(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """In pixels."""
    return (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)


def sigmoid(logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Probabilities, float64."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities of the classes of each row, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
