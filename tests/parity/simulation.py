"""Simulates outcomes of one side with few anchors, zero deltas and plain loops."""

import numpy as np

from maskrcnn_jax.config import Config, DetectionConfig
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.parity import explanation, pairing
from maskrcnn_jax.parity.records import Outcome
from maskrcnn_jax.parity.selection import Side
from tests import oracles

SIZE = (320, 320)
# No boxes overlap.
FAR = [
    [10, 10, 60, 60],
    [110, 10, 160, 60],
    [210, 10, 260, 60],
    [10, 110, 60, 160],
]


def config(*, num_candidates=1000, num_proposals=1000, num_detections=100, has_masks=True):
    """A config with three classes, background included."""
    detection = DetectionConfig(num_candidates=num_candidates, num_proposals=num_proposals)
    detection.num_detections = num_detections
    found = Config(model=ModelConfig(num_classes=3), detection=detection)
    if not has_masks:
        found.model.mask_head = None
    return found


def simulate(
    settings,
    anchors,
    scores,
    *,
    objectness=None,
    classes=None,
    masks=None,
    shift=0.0,
):
    """Simulates an outcome with ``scores[i]`` for class ``classes[i]`` (default 1) of anchor i.

    Args:
        objectness: Logits of the anchors; by default they descend, so the order is unambiguous.
        masks: Masks of the anchors, ``[n, 320, 320]``; by default halves. None without a mask head.
        shift: Offset of the boxes in original pixels.
    """
    anchors, num_anchors = np.array(anchors, np.float32), len(anchors)
    objectness = -np.arange(num_anchors) if objectness is None else objectness
    objectness = np.array(objectness, np.float32)
    classes = np.ones(num_anchors, int) if classes is None else np.array(classes)

    best = np.argsort(-objectness, kind="stable")[: settings.detection.num_candidates]
    keep = oracles.nms(anchors[best], np.ones(len(best), bool), settings.model.rpn.nms_threshold)
    chosen = best[keep][: settings.detection.num_proposals]

    probabilities = np.full((len(chosen), 3), 1e-6)
    probabilities[np.arange(len(chosen)), classes[chosen]] = np.array(scores)[chosen]
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(axis=1)
    threshold = settings.detection.score_threshold
    order = np.argsort(-np.array(scores)[chosen], kind="stable")
    found = chosen[[i for i in order if scores[chosen[i]] > threshold]]
    valid = np.ones(len(found), bool)
    nms_threshold = settings.detection.nms_threshold
    found = found[oracles.nms(anchors[found], valid, nms_threshold, classes[found])]
    found = found[: settings.detection.num_detections]
    if settings.model.mask_head is not None:
        masks = np.full((num_anchors, *SIZE), 0.5, np.float32) if masks is None else masks
        masks = masks[found]
    return Outcome(
        size=SIZE,
        original_size=SIZE,
        canvas=SIZE,
        anchors={2: anchors},
        objectness={2: objectness},
        deltas={2: np.zeros_like(anchors)},
        proposals=anchors[chosen],
        rois=anchors[chosen][None],
        class_logits=np.log(probabilities).astype(np.float32),
        class_deltas=np.zeros((len(chosen), 3, 4), np.float32),
        boxes=anchors[found],
        labels=classes[found],
        scores=np.array(scores, np.float32)[found],
        original_boxes=anchors[found] + np.float32(shift),
        masks=masks,
    )


def explain(settings, theirs, ours, **rules):
    """Pairs two outcomes, and explains the unpaired detections; ``rules`` are those of a peer."""
    sides = Side("torchvision", theirs, settings, **rules), Side("ours", ours, settings)
    return explanation.explain_detections(*sides, pairing.pair(theirs, ours))
