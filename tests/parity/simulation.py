"""Made-up outcomes of one side: few anchors, deltas of zero, and decisions taken by plain loops."""

import numpy as np

from maskrcnn_jax.config import DetectionConfig, ModelConfig, RPNConfig
from maskrcnn_jax.parity import explanation, pairing
from maskrcnn_jax.parity.records import Outcome
from maskrcnn_jax.parity.selection import Side
from tests import oracles

SIZE = (320, 320)
FAR = [[10, 10, 60, 60], [110, 10, 160, 60], [210, 10, 260, 60], [10, 110, 60, 160]]  # Nothing overlaps.


def config(*, num_candidates=1000, num_proposals=1000, num_detections=100):
    """Three classes, background included."""
    return ModelConfig(
        num_classes=3,
        rpn=RPNConfig(test_num_candidates=num_candidates, test_num_proposals=num_proposals),
        detection=DetectionConfig(num_detections=num_detections),
    )


def simulate(settings, anchors, scores, *, objectness=None, classes=None, masks=None, shift=0.0):
    """An outcome in which anchor i scores ``scores[i]`` for class ``classes[i]``, 1 by default.

    Args:
        objectness: Logits; descending by default, so that no anchor depends on another one's score.
        masks: By anchor, ``[n, 320, 320]``; halves by default.
        shift: Added to the boxes in original pixels.
    """
    anchors, num_anchors = np.array(anchors, np.float32), len(anchors)
    objectness = -np.arange(num_anchors) if objectness is None else objectness
    objectness = np.array(objectness, np.float32)
    classes = np.ones(num_anchors, int) if classes is None else np.array(classes)

    best = np.argsort(-objectness, kind="stable")[: settings.rpn.test_num_candidates]
    keep = oracles.nms(anchors[best], np.ones(len(best), bool), settings.rpn.nms_threshold)
    chosen = best[keep][: settings.rpn.test_num_proposals]

    probabilities = np.full((len(chosen), 3), 1e-6)
    probabilities[np.arange(len(chosen)), classes[chosen]] = np.array(scores)[chosen]
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(axis=1)
    found = [i for i in np.argsort(-np.array(scores)[chosen], kind="stable")]
    found = np.array([i for i in found if scores[chosen[i]] > settings.detection.score_threshold], int)
    valid = np.ones(len(found), bool)
    found = found[oracles.nms(anchors[chosen[found]], valid, settings.detection.nms_threshold, classes[chosen[found]])]
    found = chosen[found[: settings.detection.num_detections]]
    masks = np.full((num_anchors, *SIZE), 0.5, np.float32) if masks is None else masks
    return Outcome(
        size=SIZE,
        original_size=SIZE,
        canvas=SIZE,
        anchors={2: anchors},
        objectness={2: objectness},
        deltas={2: np.zeros_like(anchors)},
        proposals=anchors[chosen],
        class_logits=np.log(probabilities).astype(np.float32),
        class_deltas=np.zeros((len(chosen), 3, 4), np.float32),
        boxes=anchors[found],
        labels=classes[found],
        scores=np.array(scores, np.float32)[found],
        original_boxes=anchors[found] + np.float32(shift),
        masks=masks[found],
    )


def explain(settings, theirs, ours, *, adds_offsets=False):
    """Pairs two outcomes, and explains the detections left over."""
    sides = Side("torchvision", theirs, settings, adds_offsets), Side("ours", ours, settings)
    return explanation.explain_detections(*sides, pairing.pair(theirs, ours))
