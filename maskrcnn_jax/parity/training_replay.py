"""Our side of the training comparison: steps on the anchors and RoIs that torchvision drew, all else our own."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax import targets, training
from maskrcnn_jax.config import Config, ModelConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops import anchors, boxes, matching
from maskrcnn_jax.structures import AnchorTargets, Batch, Instances, RoITargets
from maskrcnn_jax.training import TrainState


class Drawn(NamedTuple):
    """What torchvision's samplers drew, padded to our slots, positives first."""

    anchors: Int[Array, "b s"]  # Into the anchors of the whole bucket, from the finest level.
    positive_anchors: Bool[Array, "b s"]
    valid_anchors: Bool[Array, "b s"]
    rois: Float[Array, "b r 4"]
    valid_rois: Bool[Array, "b r"]


class Samples(NamedTuple):
    """The same as our targets: objects matched, deltas encoded and masks cut by our own rules."""

    anchors: AnchorTargets
    rois: RoITargets
    anchor_labels: Int[Array, "b n"]  # Of all anchors of the bucket.
    inside: Bool[Array, "b n"]  # Anchors on the canvas.
    masks: Float[Array, "b r m m"]  # Targets of the first RoIs.


def drawn(
    config: ModelConfig,
    bucket: tuple[int, int],
    canvas: tuple[int, int],
    positive_anchors: list[np.ndarray],
    negative_anchors: list[np.ndarray],
    rois: list[np.ndarray],
    roi_classes: list[np.ndarray],
) -> Drawn:
    """Puts torchvision's samples, given per image as in `training_reference.Step`, into slots.

    Positive RoIs move to the front, where the mask head looks for them.
    """
    places = _anchor_places(bucket, canvas, len(config.rpn.aspect_ratios))
    indices = [places[np.concatenate(pair)] for pair in zip(positive_anchors, negative_anchors, strict=True)]
    ordered = [x[np.argsort(classes == 0, kind="stable")] for x, classes in zip(rois, roi_classes, strict=True)]
    anchor_slots, roi_slots = np.arange(config.rpn.num_samples), np.arange(config.roi.num_samples)
    return Drawn(
        anchors=_slots(indices, len(anchor_slots)).astype(np.int32),
        positive_anchors=np.array([anchor_slots < len(x) for x in positive_anchors]),
        valid_anchors=np.array([anchor_slots < len(x) for x in indices]),
        rois=_slots(ordered, len(roi_slots)),
        valid_rois=np.array([roi_slots < len(x) for x in rois]),
    )


def level_shapes(size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Height and width of P2 to P6 for a bucket or canvas."""
    return {level: (-(-size[0] // 2**level), -(-size[1] // 2**level)) for level in range(2, 7)}


def _anchor_places(bucket: tuple[int, int], canvas: tuple[int, int], num_ratios: int) -> np.ndarray:
    """Index in the bucket of each anchor of the canvas."""
    places, start = [], 0
    small = level_shapes(canvas)
    for level, (height, width) in level_shapes(bucket).items():
        count = height * width * num_ratios
        grid = np.arange(start, start + count).reshape(height, width, num_ratios)
        places.append(grid[: small[level][0], : small[level][1]].reshape(-1))
        start += count
    return np.concatenate(places)


def _slots(arrays: list[np.ndarray], count: int) -> np.ndarray:
    """Arrays of different lengths as one, padded with zeros."""
    return np.stack([np.pad(x, [(0, count - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in arrays])


def compile_samples(config: ModelConfig) -> Callable[[Batch, Drawn], Samples]:
    """A compiled function that makes our targets of what torchvision drew."""

    def sample(batch: Batch, chosen: Drawn) -> Samples:
        shapes = level_shapes(batch.images.shape[1:3])
        anchor_one = partial(_anchor_targets, shapes=shapes, config=config)
        inputs = chosen.anchors, chosen.positive_anchors, chosen.valid_anchors
        anchor_targets, labels, inside = jax.vmap(anchor_one)(batch.instances, batch.canvas, *inputs)
        rois = jax.vmap(partial(_roi_targets, config=config))(batch.instances, chosen.rois, chosen.valid_rois)
        count = MaskRCNN(config).num_mask_samples
        positives = jax.tree.map(lambda x: x[:, :count], rois)
        size = {"bucket": batch.images.shape[1:3], "resolution": 2 * config.roi.mask_resolution}
        masks = jax.vmap(partial(targets.mask_targets, **size))(positives, batch.instances, batch.sizes)
        return Samples(anchor_targets, rois, labels, inside, masks)

    return jax.jit(sample)


def _anchor_targets(
    instances: Instances,
    canvas: Int[Array, "2"],
    indices: Int[Array, " s"],
    positive: Bool[Array, " s"],
    valid: Bool[Array, " s"],
    *,
    shapes: dict[int, tuple[int, int]],
    config: ModelConfig,
) -> tuple[AnchorTargets, Int[Array, " n"], Bool[Array, " n"]]:
    """Targets of given anchors of one image, the labels of all of them, and which are on the canvas."""
    rpn = config.rpn
    grids = anchors.pyramid_anchors(shapes, canvas, rpn.anchor_sizes, rpn.aspect_ratios)
    grid, inside = (jnp.concatenate(parts) for parts in zip(*grids.values(), strict=True))
    thresholds = {"positive_iou": rpn.positive_iou, "negative_iou": rpn.negative_iou}
    iou = boxes.pairwise_iou(instances.boxes, grid)
    matched, labels = matching.match(iou, instances.valid, **thresholds, low_quality=True)
    deltas = boxes.encode(instances.boxes[matched[indices]], grid[indices], rpn.box_weights)
    deltas = jnp.where(positive.reshape(-1, 1), deltas, 0)
    return AnchorTargets(indices, positive, deltas, valid), labels, inside


def _roi_targets(
    instances: Instances, rois: Float[Array, "r 4"], valid: Bool[Array, " r"], *, config: ModelConfig
) -> RoITargets:
    """Targets of given RoIs of one image."""
    threshold = config.roi.positive_iou
    thresholds = {"positive_iou": threshold, "negative_iou": threshold}
    iou = boxes.pairwise_iou(instances.boxes, rois)
    matched, labels = matching.match(iou, instances.valid, **thresholds, low_quality=False)
    positive = valid & (labels == 1)
    deltas = boxes.encode(instances.boxes[matched], rois, config.roi.box_weights)
    classes = jnp.where(positive, instances.classes[matched], 0)
    return RoITargets(rois, classes, jnp.where(positive.reshape(-1, 1), deltas, 0), matched, positive, valid)


def replaying(samples: Samples) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A `MaskRCNN.per_image` under which the two stages that draw give these samples, and all others do their work."""
    given = {targets.anchor_targets: samples.anchors, targets.roi_targets: samples.rois}

    def per_image(stage: Callable[..., Any]) -> Callable[..., Any]:
        function = getattr(stage, "func", stage)
        return (lambda *_: given[function]) if function in given else jax.vmap(stage)

    return per_image


def compile_step(
    config: ModelConfig, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch, Samples], tuple[TrainState, dict[str, Array]]]:
    """`training.train_step` on given samples, compiled; the state it is given is overwritten."""

    def step(state: TrainState, batch: Batch, samples: Samples) -> tuple[TrainState, dict[str, Array]]:
        model = MaskRCNN(config, replaying(samples))
        return training.train_step(state, batch, jax.random.key(0), model=model, optimizer=optimizer)

    return jax.jit(step, donate_argnums=0)


def make_optimizer(config: Config, params: dict[str, Any]) -> optax.GradientTransformation:
    """`training.make_optimizer`, with a state that begins with the gradients of the last step."""

    def zeros(params: dict[str, Any]) -> dict[str, Any]:
        return jax.tree.map(jnp.zeros_like, params)

    keep = optax.GradientTransformation(zeros, lambda gradients, state, params=None: (gradients, gradients))
    return optax.chain(keep, training.make_optimizer(config, params))
