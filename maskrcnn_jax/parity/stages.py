"""Runs each of our stages on the peer's inputs, so that errors do not propagate."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax import pasting
from maskrcnn_jax.detections import detect
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.parity import padding
from maskrcnn_jax.parity.jax_model import JaxModel
from maskrcnn_jax.parity.padding import Size
from maskrcnn_jax.parity.records import Outcome, Stages
from maskrcnn_jax.structures import AnchorScores, Detections, Proposals


class StageOutputs(NamedTuple):
    """The outputs of our stages for the peer's inputs, for one image."""

    # The original boxes come from the peer's boxes, and the pasted masks from its mask logits and
    # original boxes.
    stages: Stages
    # The peer's outcome with our boxes, labels and scores, computed from the peer's class logits
    # and deltas.
    detections: Outcome


class StageRunner:
    """Runs the stages. Stages of whole images compile once for each bucket, the heads once."""

    def __init__(self, jax_model: JaxModel) -> None:
        self.jax_model = jax_model
        model = jax_model.model
        self._maps = model.run.jit(partial(model.apply, method=_maps))
        self._heads = model.run.jit(partial(model.apply, method=_heads))
        self.compiled: set[Size] = set()  # Buckets so far, a program each.

    def __call__(self, image: np.ndarray, theirs: Stages) -> StageOutputs:
        """Runs all stages on the peer's results for one image in a batch of its own."""
        given = theirs.outcome
        bucket = self.jax_model.bucket([given.size])
        self.compiled.add(bucket)
        sizes, canvas = np.array([given.size], np.int32), np.array([given.canvas], np.int32)
        variables = self.jax_model.variables
        with jax.default_matmul_precision("highest"):
            maps = self._maps(variables, self._map_inputs(image, theirs, bucket), sizes, canvas)
            heads = self._heads(variables, self._head_inputs(theirs), sizes)
        results = jax.tree.map(lambda x: x[0], jax.device_get(maps | heads))
        stages = self._stages(theirs, results, bucket)
        return StageOutputs(stages, _with_detections(given, results["detections"]))

    def _map_inputs(self, image: np.ndarray, theirs: Stages, bucket: Size) -> dict[str, Any]:
        """The inputs of `_maps`, padded to the bucket and to the slots of detections."""
        given, detection = theirs.outcome, self.jax_model.config.detection
        return {
            "resized": self.jax_model.pad([image], bucket),
            "image": padding.fill(theirs.image, bucket),
            "backbone": padding.fill_levels(theirs.backbone, bucket),
            "pyramid": padding.fill_levels(theirs.pyramid, bucket),
            "objectness": padding.fill_anchors(given.objectness, given.canvas, bucket),
            "deltas": padding.fill_anchors(given.deltas, given.canvas, bucket),
            "rois": _stage_slots(given.rois, detection.num_proposals),
            "boxes": padding.slots(given.boxes, detection.num_detections),
        }

    def _head_inputs(self, theirs: Stages) -> dict[str, Any]:
        """The inputs of `_heads`, padded to the slots of detections."""
        given, detection = theirs.outcome, self.jax_model.config.detection
        num_rois, num_found = detection.num_proposals, detection.num_detections
        side = theirs.box_features.shape[1:]
        features = theirs.box_features.reshape(*given.rois.shape[:2], *side)
        inputs = {
            "box_features": _stage_slots(features, num_rois),
            "class_logits": padding.slots(given.class_logits, num_rois),
            "class_deltas": padding.slots(given.class_deltas, num_rois),
            "proposals": padding.slots(given.proposals, num_rois),
            "last_rois": padding.slots(given.rois[-1], num_rois),
            "valid": padding.slots(np.ones(len(given.proposals), bool), num_rois),
            "labels": padding.slots(given.labels, num_found),
        }
        if theirs.mask_features is not None:
            inputs["mask_features"] = padding.slots(theirs.mask_features, num_found)
        return inputs

    def _stages(self, theirs: Stages, results: dict[str, Any], bucket: Size) -> Stages:
        """Removes the padding from the results."""
        given, (height, width) = theirs.outcome, theirs.outcome.canvas
        num_rois, num_found = len(given.proposals), len(given.boxes)
        settings = self.jax_model.config.detection
        boxes, _ = pasting.scale_boxes(given.boxes, given.size, given.original_size, settings)
        masks = mask_features = mask_logits = None
        if theirs.mask_logits is not None:
            probabilities = 1 / (1 + np.exp(-theirs.mask_logits))
            where = given.original_boxes, given.original_size
            masks = pasting.paste(probabilities, *where, settings.paste)
            mask_features = results["mask_features"][:num_found]
            mask_logits = results["mask_logits"][:num_found]
        outcome = given._replace(
            anchors=self.jax_model.anchors(given.canvas),
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
            box_features=_without_slots(results["box_features"], given.rois),
            mask_features=mask_features,
            mask_logits=mask_logits,
            outcome=outcome,
        )


def _maps(
    model: MaskRCNN, inputs: dict[str, Any], sizes: jax.Array, canvas: jax.Array
) -> dict[str, Any]:
    """Runs the stages of the whole image."""
    pyramid, config = inputs["pyramid"], model.config
    objectness, deltas = model.rpn(pyramid, canvas)
    given = AnchorScores(inputs["objectness"], inputs["deltas"])
    box_resolution = config.box_head.resolution
    results = {
        "image": model.normalise(inputs["resized"], sizes),
        "backbone": model.backbone(inputs["image"], canvas),
        "pyramid": model.fpn(inputs["backbone"], canvas),
        "objectness": objectness,
        "deltas": deltas,
        "proposals": model.propose(given, pyramid, sizes, canvas, model.detection),
        "box_features": model.pool(pyramid, inputs["rois"], canvas, box_resolution),
    }
    if config.mask_head is not None:
        pool = model.box_head.pool_for_masks(partial(model.pool, pyramid, canvas=canvas))
        resolution = config.mask_head.resolution
        results["mask_features"] = pool(inputs["boxes"], resolution=resolution)
    return results


def _heads(model: MaskRCNN, inputs: dict[str, Any], sizes: jax.Array) -> dict[str, Any]:
    """Runs the heads on pooled features, and selects detections."""
    features, num_rois = inputs["box_features"], inputs["valid"].shape[1]
    stages = iter(jnp.split(features, features.shape[1] // num_rois, axis=1))

    def next_features(boxes: jax.Array, resolution: int) -> jax.Array:
        return next(stages)

    proposals = Proposals(inputs["proposals"], inputs["valid"])
    class_logits, class_deltas, _ = model.box_head.predict(next_features, proposals, sizes)
    thresholds = jnp.full(len(sizes), model.detection.score_threshold, jnp.float32)
    detect_each = model.each(
        detect,
        config=model.detection,
        box_weights=model.box_head.box_weights,
        limit_shrinking=model.config.limit_shrinking,
        classifier=model.config.box_head.classifier,
    )
    last_rois = Proposals(inputs["last_rois"], inputs["valid"])
    given = inputs["class_logits"], inputs["class_deltas"], last_rois, sizes, thresholds
    results = {
        "class_logits": class_logits,
        "class_deltas": class_deltas,
        "detections": detect_each(*given),
    }
    if model.config.mask_head is not None:
        results["mask_logits"] = model.mask_head(inputs["mask_features"], inputs["labels"])
    return results


def _stage_slots(arrays: np.ndarray, num_slots: int) -> np.ndarray:
    """Pads the arrays of each stage to slots, and joins the stages: ``[1, s * num_slots, ...]``."""
    return np.concatenate([padding.slots(array, num_slots) for array in arrays], axis=1)


def _without_slots(joined: np.ndarray, rois: np.ndarray) -> np.ndarray:
    """The inverse of `_stage_slots` for an image: all rows of the first stage, and so on."""
    by_stage = joined.reshape(len(rois), -1, *joined.shape[1:])
    return by_stage[:, : rois.shape[1]].reshape(-1, *joined.shape[1:])


def _with_detections(given: Outcome, detections: Detections) -> Outcome:
    """Replaces the boxes, labels and scores of an outcome."""
    valid = detections.valid
    return given._replace(
        boxes=detections.boxes[valid],
        labels=detections.classes[valid].astype(np.int64),
        scores=detections.scores[valid],
    )
