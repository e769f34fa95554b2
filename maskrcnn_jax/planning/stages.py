"""Single stages of a step as programs of their own, which compile in seconds.

A stage is a function of the model and of arrays. Its arrays are results of earlier stages, of which
only the shapes are computed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maskrcnn_jax.detections import detect
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops.anchors import map_shapes
from maskrcnn_jax.structures import Batch, Detections
from maskrcnn_jax.targets import anchor_targets, mask_targets, num_mask_samples, roi_targets

Arrays = dict[str, Any]  # Arrays of a step, or their shapes, by name.


class Stage(NamedTuple):
    """A stage: what it reads and returns, and of what the training step takes its gradient."""

    run: Callable[..., tuple[Any, ...]]  # Takes the model and the inputs.
    inputs: tuple[str, ...]
    results: tuple[str, ...]
    module: str = ""  # Its parameters get a gradient.
    learned: tuple[str, ...] = ()  # The inputs that get a gradient.


def _anchor_targets(model: MaskRCNN, keys, images, instances, canvas):
    shapes = map_shapes(images.shape[1:3], model.config.levels)
    match_each = model.each(anchor_targets, shapes=shapes, config=model.config.rpn)
    return (match_each(keys[:, 0], instances, canvas),)


def _backbone(model: MaskRCNN, images, sizes, canvas):
    return (model.backbone(model.normalise(images, sizes), canvas),)


def _fpn(model: MaskRCNN, features, canvas):
    return (model.fpn(features, canvas),)


def _rpn_learn(model: MaskRCNN, pyramid, canvas, anchors):
    pyramid, scores, sampled = model.rpn.learn(pyramid, canvas, anchors.indices)
    return pyramid, jax.lax.stop_gradient(scores), sampled


def _rpn(model: MaskRCNN, pyramid, canvas):
    return pyramid, model.rpn(pyramid, canvas)


def _propose(model: MaskRCNN, scores, pyramid, sizes, canvas):
    return (model.propose(scores, pyramid, sizes, canvas, model.config.rpn),)


def _propose_rois(model: MaskRCNN, scores, pyramid, sizes, canvas):
    return (model.propose(scores, pyramid, sizes, canvas, model.detection),)


def _roi_targets(model: MaskRCNN, keys, proposals, instances):
    rois = model.each(roi_targets, config=model.config.roi)(keys[:, 1], proposals, instances)
    if model.config.mask_head is None:
        return rois, None
    return rois, jax.tree.map(lambda x: x[:, : num_mask_samples(model.config)], rois)


def _roi_align(model: MaskRCNN, pyramid, rois, objects, canvas):
    config = model.config
    pooled = model.pool(pyramid, rois.boxes, canvas, config.box_head.resolution)
    if config.mask_head is None:
        return pooled, None
    return pooled, model.pool(pyramid, objects.boxes, canvas, config.mask_head.resolution)


def _box_head(model: MaskRCNN, pooled, rois):
    return model.box_head(pooled, rois.valid)


def _mask_head(model: MaskRCNN, pooled_for_masks, objects):
    return (model.mask_head(pooled_for_masks, objects.classes, objects.valid),)


def _mask_targets(model: MaskRCNN, objects, instances, sizes, canvas):
    config = model.config
    rule = {"resolution": 2 * config.mask_head.resolution, "rule": config.roi.mask_targets}
    return (model.each(mask_targets, **rule)(objects, instances, sizes, canvas),)


def _detections(model: MaskRCNN, logits, deltas, rois, sizes):
    thresholds = jnp.full(len(sizes), model.detection.score_threshold, jnp.float32)
    box_weights = model.config.roi.box_weights
    detect_each = model.each(detect, config=model.detection, box_weights=box_weights)
    return (detect_each(logits, deltas, rois, sizes, thresholds),)


_FOR_PROPOSALS = "scores", "pyramid", "sizes", "canvas"
_BOTH = {
    "backbone": Stage(_backbone, ("images", "sizes", "canvas"), ("features",), "backbone"),
    "fpn": Stage(_fpn, ("features", "canvas"), ("pyramid",), "fpn", ("features",)),
    "roi_align": Stage(
        _roi_align,
        ("pyramid", "rois", "objects", "canvas"),
        ("pooled", "pooled_for_masks"),
        learned=("pyramid",),
    ),
    "box_head": Stage(_box_head, ("pooled", "rois"), ("logits", "deltas"), "box_head", ("pooled",)),
    "mask_head": Stage(
        _mask_head,
        ("pooled_for_masks", "objects"),
        ("mask_logits",),
        "mask_head",
        ("pooled_for_masks",),
    ),
}
# The stages of each program. In training ``rois`` and ``objects`` are sampled for the heads; in
# detection they are the proposals and the detections.
STAGES = {
    "train": _BOTH
    | {
        "anchor_targets": Stage(
            _anchor_targets, ("keys", "images", "instances", "canvas"), ("anchors",)
        ),
        "rpn": Stage(
            _rpn_learn,
            ("pyramid", "canvas", "anchors"),
            ("pyramid_after_rpn", "scores", "sampled"),
            "rpn",
            ("pyramid",),
        ),
        "proposals": Stage(_propose, _FOR_PROPOSALS, ("proposals",)),
        "roi_targets": Stage(_roi_targets, ("keys", "proposals", "instances"), ("rois", "objects")),
        "mask_targets": Stage(
            _mask_targets, ("objects", "instances", "sizes", "canvas"), ("masks",)
        ),
    },
    "detect": _BOTH
    | {
        "rpn": Stage(_rpn, ("pyramid", "canvas"), ("pyramid_after_rpn", "scores")),
        "proposals": Stage(_propose_rois, _FOR_PROPOSALS, ("rois",)),
        "detections": Stage(_detections, ("logits", "deltas", "rois", "sizes"), ("found",)),
    },
}
_OF_SINGLE_STAGE = ("box_head", "mask_head", "roi_align", "detections")
NAMES = sorted(STAGES["train"] | STAGES["detect"])


def trace(
    model: MaskRCNN, variables: Arrays, batch: Batch, program: str, name: str
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A stage as a function, with its gradient if the program trains, and its arguments.

    Args:
        model: The model.
        variables: Shapes of its variables.
        batch: Shapes of a batch.
        program: "train" or "detect".
        name: A key of ``STAGES[program]``.

    Returns:
        The function, to be compiled, and the shapes of its arguments.

    Raises:
        ValueError: The program has no such stage.
    """
    stages = dict(STAGES[program])
    if (
        model.config.cascade is not None or model.config.box_head.res5
    ):  # Their stages are parts of the whole program only.
        stages = {key: stage for key, stage in stages.items() if key not in _OF_SINGLE_STAGE}
    if model.config.mask_head is None:
        stages = {key: stage for key, stage in stages.items() if not key.startswith("mask")}
    if name not in stages:
        known = ", ".join(sorted(stages))
        raise ValueError(f"--stage {name}: the stages of {program} are {known}")
    arrays = _known(model, batch, program)
    stage = stages[name]
    inputs = [_shapes(model, variables, stages, arrays, key) for key in stage.inputs]
    apply = partial(_apply, model, stage)
    if program == "detect" or not (stage.module or stage.learned):
        return apply, (variables, *inputs)
    results = jax.eval_shape(apply, variables, *inputs)
    return partial(_with_gradient, apply, stage), (variables, inputs, results)


def _apply(model: MaskRCNN, stage: Stage, variables: Arrays, *inputs: Any) -> tuple[Any, ...]:
    results, _ = model.apply(variables, *inputs, method=stage.run, mutable=["batch_stats"])
    return results


def _with_gradient(
    apply: Callable[..., Any], stage: Stage, variables: Arrays, inputs: list[Any], cotangents: Any
) -> tuple[Any, Any]:
    """The results, and the gradients by parameters and learned inputs, given those of the results.

    Args:
        apply: Computes the results from the variables and the inputs.
        stage: The stage.
        variables: Its variables.
        inputs: Its inputs.
        cotangents: The gradients by the results.
    """
    params = {key: variables["params"][key] for key in [stage.module] if key}
    indices = [stage.inputs.index(key) for key in stage.learned]

    def of_learned(params: Arrays, learned: list[Any]) -> Any:
        given = list(inputs)
        for index, value in zip(indices, learned, strict=True):
            given[index] = value
        return apply(variables | {"params": variables["params"] | params}, *given)

    results, pull = jax.vjp(of_learned, params, [inputs[index] for index in indices])
    return results, pull(cotangents)


def _known(model: MaskRCNN, batch: Batch, program: str) -> Arrays:
    """The arrays that no stage computes."""
    size, slots, shape = len(batch.images), model.detection.num_detections, jax.ShapeDtypeStruct
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (size, 2)))
    arrays = batch._asdict() | {"keys": keys}
    if program == "train":
        return arrays
    # Detections follow from the features of proposals, which the same stage pools.
    found = Detections(
        boxes=shape((size, slots, 4), jnp.float32),
        classes=shape((size, slots), jnp.int32),
        scores=shape((size, slots), jnp.float32),
        masks=None,
        valid=shape((size, slots), jnp.bool_),
    )
    return arrays | {"objects": found}


def _shapes(
    model: MaskRCNN, variables: Arrays, stages: dict[str, Stage], arrays: Arrays, name: str
) -> Any:
    """The shapes of an array, from the stages that compute it."""
    if name not in arrays:
        stage = next(stage for stage in stages.values() if name in stage.results)
        inputs = [_shapes(model, variables, stages, arrays, key) for key in stage.inputs]
        results = jax.eval_shape(partial(_apply, model, stage), variables, *inputs)
        arrays.update(zip(stage.results, results, strict=True))
    return arrays[name]
