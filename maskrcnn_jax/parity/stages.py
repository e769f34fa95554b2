"""Each of our stages, fed with the reference's input to it: a difference shows in the stage where it arises."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax import compiler, pasting
from maskrcnn_jax.detections import detect
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.parity import padding
from maskrcnn_jax.parity.ours import Ours
from maskrcnn_jax.parity.padding import Size
from maskrcnn_jax.parity.records import Outcome, Stages
from maskrcnn_jax.structures import Detections, Proposals


class Fed(NamedTuple):
    """What our stages make of the reference's inputs for one image."""

    stages: Stages  # In its outcome, original boxes and masks are those of the reference's boxes and mask logits.
    detections: Outcome  # The reference's, but with our boxes, labels and scores from its class logits and deltas.


class Feeder:
    """Compiles the stages: maps once for each bucket, heads once."""

    def __init__(self, ours: Ours) -> None:
        self.ours = ours
        model, jit = MaskRCNN(ours.config), compiler.jit(ours.config.deterministic)
        self._maps = jit(partial(model.apply, method=_maps))
        self._heads = jit(partial(model.apply, method=_heads))
        self.compiled: set[Size] = set()  # Buckets seen: a program each, and one more for the heads.

    def feed(self, picture: np.ndarray, theirs: Stages) -> Fed:
        """Runs every stage on what the reference computed for this picture, which was alone in its batch."""
        given, config = theirs.outcome, self.ours.config
        bucket = self.ours.bucket([given.size])
        self.compiled.add(bucket)
        sizes, canvas = np.array([given.size], np.int32), np.array([given.canvas], np.int32)
        num_rois, num_found = config.rpn.test_num_proposals, config.detection.num_detections
        inputs = {
            "picture": self.ours.pad([picture], bucket),
            "image": padding.fill(theirs.image, bucket),
            "backbone": padding.fill_levels(theirs.backbone, bucket),
            "pyramid": padding.fill_levels(theirs.pyramid, bucket),
            "objectness": padding.fill_anchors(given.objectness, given.canvas, bucket),
            "deltas": padding.fill_anchors(given.deltas, given.canvas, bucket),
            "proposals": padding.slots(given.proposals, num_rois),
            "boxes": padding.slots(given.boxes, num_found),
        }
        pooled = {
            "box_features": padding.slots(theirs.box_features, num_rois),
            "mask_features": padding.slots(theirs.mask_features, num_found),
            "labels": padding.slots(given.labels, num_found),
            "class_logits": padding.slots(given.class_logits, num_rois),
            "class_deltas": padding.slots(given.class_deltas, num_rois),
            "proposals": inputs["proposals"],
            "valid": padding.slots(np.ones(len(given.proposals), bool), num_rois),
        }
        with jax.default_matmul_precision("highest"):
            maps = self._maps(self.ours.variables, inputs, sizes, canvas)
            heads = self._heads(self.ours.variables, pooled, sizes)
        results = jax.tree.map(lambda x: x[0], jax.device_get(maps | heads))
        return Fed(self._stages(theirs, results, bucket), _detections(given, results["detections"]))

    def _stages(self, theirs: Stages, results: dict[str, Any], bucket: Size) -> Stages:
        given, (height, width) = theirs.outcome, theirs.outcome.canvas
        num_rois, num_found = len(given.proposals), len(given.boxes)
        boxes, masks = self._pasted(theirs)
        outcome = given._replace(
            anchors=self.ours.anchors(given.canvas),
            objectness=padding.crop_anchors(results["objectness"], given.canvas, bucket),
            deltas=padding.crop_anchors(results["deltas"], given.canvas, bucket),
            proposals=results["proposals"].boxes[results["proposals"].valid],
            class_logits=results["class_logits"][:num_rois],
            class_deltas=results["class_deltas"][:num_rois],
            original_boxes=boxes,
            masks=masks,
        )
        return Stages(
            image=results["image"][:height, :width],
            backbone=padding.crop_levels(results["backbone"], given.canvas),
            pyramid=padding.crop_levels(results["pyramid"], given.canvas),
            box_features=results["box_features"][:num_rois],
            mask_features=results["mask_features"][:num_found],
            mask_logits=results["mask_logits"][:num_found],
            outcome=outcome,
        )

    def _pasted(self, theirs: Stages) -> tuple[np.ndarray, np.ndarray]:
        """The reference's boxes and masks in pixels of the original image, by our rules."""
        given = theirs.outcome
        factor = np.array(given.original_size, np.float32) / np.array(given.size, np.float32)
        boxes = given.boxes * factor[[1, 0, 1, 0]]
        return boxes, pasting.paste(1 / (1 + np.exp(-theirs.mask_logits)), boxes, given.original_size)


def _maps(model: MaskRCNN, inputs: dict[str, Any], sizes: jax.Array, canvas: jax.Array) -> dict[str, Any]:
    """The stages that see the whole image."""
    pyramid, config = inputs["pyramid"], model.config
    extents = {level: -(-canvas // 2**level) for level in pyramid}
    objectness, deltas = model.rpn_head(pyramid, extents)
    counts = config.rpn.test_num_candidates, config.rpn.test_num_proposals
    return {
        "image": model.normalise(inputs["picture"], sizes),
        "backbone": model.backbone(inputs["image"], canvas),
        "pyramid": model.fpn(inputs["backbone"], {level: extents[level] for level in inputs["backbone"]}),
        "objectness": objectness,
        "deltas": deltas,
        "proposals": model.propose(pyramid, inputs["objectness"], inputs["deltas"], sizes, canvas, *counts),
        "box_features": model.pool(pyramid, inputs["proposals"], canvas, config.roi.box_resolution),
        "mask_features": model.pool(pyramid, inputs["boxes"], canvas, config.roi.mask_resolution),
    }


def _heads(model: MaskRCNN, inputs: dict[str, Any], sizes: jax.Array) -> dict[str, Any]:
    """The stages that see pooled features, and the choice of detections."""
    config = model.config
    class_logits, class_deltas = model.box_head(inputs["box_features"])
    detect_one = partial(detect, config=config.detection, box_weights=config.roi.box_weights)
    proposals = Proposals(inputs["proposals"], inputs["valid"])
    threshold = np.full(len(sizes), config.detection.score_threshold, np.float32)
    detections = model.per_image(detect_one)(
        inputs["class_logits"], inputs["class_deltas"], proposals, sizes, jnp.asarray(threshold)
    )
    return {
        "class_logits": class_logits,
        "class_deltas": class_deltas,
        "detections": detections._replace(masks=detections.scores),
        "mask_logits": model.mask_head(inputs["mask_features"], inputs["labels"]),
    }


def _detections(given: Outcome, detections: Detections) -> Outcome:
    found = detections.valid
    labels = detections.classes[found].astype(np.int64)
    return given._replace(boxes=detections.boxes[found], labels=labels, scores=detections.scores[found])
