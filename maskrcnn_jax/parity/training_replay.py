"""Our side of the training comparison: steps on the anchors and RoIs that torchvision drew, all else our own."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax import images, targets, training
from maskrcnn_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig
from maskrcnn_jax.data import pipeline
from maskrcnn_jax.data.coco import Example
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops import anchors, boxes, matching
from maskrcnn_jax.parity import padding
from maskrcnn_jax.structures import AnchorTargets, Batch, Instances, RoITargets
from maskrcnn_jax.training import TrainState
from maskrcnn_jax.weights import torchvision


class Step(NamedTuple):
    """One step of torchvision's training. Lists have an array per image; boxes are in pixels of the resized image."""

    anchor_labels: list[np.ndarray]  # Of all anchors from the finest level: 1 positive, 0 negative, -1 between.
    positive_anchors: list[np.ndarray]  # Indices of the sampled ones.
    negative_anchors: list[np.ndarray]
    rois: list[np.ndarray]  # The sampled ones, float32 [r, 4].
    roi_classes: list[np.ndarray]  # 0 is background.
    roi_instances: list[np.ndarray]  # The matched object.
    mask_targets: list[np.ndarray]  # Of the positive RoIs, float32 [positives, 28, 28].
    losses: dict[str, float]
    gradients: dict[str, np.ndarray]  # Of the parameters that train, by torchvision's names.


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


def draw(config: ModelConfig, bucket: tuple[int, int], canvas: tuple[int, int], step: Step) -> Drawn:
    """Puts torchvision's samples into slots; positive RoIs move to the front, where the mask head looks for them."""
    places = _anchor_places(bucket, canvas, len(config.rpn.aspect_ratios))
    pairs = zip(step.positive_anchors, step.negative_anchors, strict=True)
    indices = [places[np.concatenate(pair)] for pair in pairs]
    rois = [x[np.argsort(classes == 0, kind="stable")] for x, classes in zip(step.rois, step.roi_classes, strict=True)]
    anchor_slots, roi_slots = np.arange(config.rpn.num_samples), np.arange(config.roi.num_samples)
    return Drawn(
        anchors=_slots(indices, len(anchor_slots)).astype(np.int32),
        positive_anchors=np.array([anchor_slots < len(x) for x in step.positive_anchors]),
        valid_anchors=np.array([anchor_slots < len(x) for x in indices]),
        rois=_slots(rois, len(roi_slots)),
        valid_rois=np.array([roi_slots < len(x) for x in rois]),
    )


def _level_shapes(size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Height and width of P2 to P6 for a bucket or canvas."""
    return {level: padding.cells(size, level) for level in range(2, 7)}


def _anchor_places(bucket: tuple[int, int], canvas: tuple[int, int], num_ratios: int) -> np.ndarray:
    """Index in the bucket of each anchor of the canvas."""
    places, start = [], 0
    small = _level_shapes(canvas)
    for level, (height, width) in _level_shapes(bucket).items():
        count = height * width * num_ratios
        grid = np.arange(start, start + count).reshape(height, width, num_ratios)
        places.append(grid[: small[level][0], : small[level][1]].reshape(-1))
        start += count
    return np.concatenate(places)


def _slots(arrays: list[np.ndarray], count: int) -> np.ndarray:
    """Arrays of different lengths as one, padded with zeros."""
    return np.concatenate([padding.slots(array, count) for array in arrays])


def make_samples(batch: Batch, drawn: Drawn, *, config: ModelConfig) -> Samples:
    """Our targets of what torchvision drew."""
    bucket = batch.images.shape[1:3]
    anchor_one = partial(_anchor_targets, shapes=_level_shapes(bucket), config=config)
    inputs = drawn.anchors, drawn.positive_anchors, drawn.valid_anchors
    anchor_targets, labels, inside = jax.vmap(anchor_one)(batch.instances, batch.canvas, *inputs)
    rois = jax.vmap(partial(_roi_targets, config=config))(batch.instances, drawn.rois, drawn.valid_rois)
    positives = jax.tree.map(lambda x: x[:, : MaskRCNN(config).num_mask_samples], rois)
    mask_one = partial(targets.mask_targets, bucket=bucket, resolution=2 * config.roi.mask_resolution)
    masks = jax.vmap(mask_one)(positives, batch.instances, batch.sizes)
    return Samples(anchor_targets, rois, labels, inside, masks)


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
    iou = jnp.where(inside.reshape(1, -1), boxes.pairwise_iou(instances.boxes, grid), -1.0)
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


def make_step(
    config: ModelConfig, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch, Samples], tuple[TrainState, dict[str, Array]]]:
    """`training.train_step` on given samples."""

    def step(state: TrainState, batch: Batch, samples: Samples) -> tuple[TrainState, dict[str, Array]]:
        model = MaskRCNN(config, replaying(samples))
        return training.train_step(state, batch, jax.random.key(0), model=model, optimizer=optimizer)

    return step


def make_optimizer(config: Config, params: dict[str, Any]) -> optax.GradientTransformation:
    """`training.make_optimizer`, with a state that begins with the gradients of the last step."""

    def zeros(params: dict[str, Any]) -> dict[str, Any]:
        return jax.tree.map(jnp.zeros_like, params)

    keep = optax.GradientTransformation(zeros, lambda gradients, state, params=None: (gradients, gradients))
    return optax.chain(keep, training.make_optimizer(config, params))


class Trainer:
    """Our training, fed with torchvision's samples.

    Args:
        config: Of the model.
        state: Initial weights by torchvision's names.
        optimizer: Its learning rate holds for the batch as it is.
        jit: Compiles functions.
    """

    def __init__(
        self,
        config: ModelConfig,
        state: dict[str, np.ndarray],
        optimizer: OptimizerConfig,
        jit: Callable[..., Any] = jax.jit,
    ):
        self.config = config
        variables = torchvision.from_state_dict(state, config)
        settings = Config(model=config, optimizer=optimizer, batch_size=training.REFERENCE_BATCH)
        transformation = make_optimizer(settings, variables["params"])
        self.state = training.create_state(variables, transformation)
        self._samples = jit(partial(make_samples, config=config))
        self._step = jit(make_step(config, transformation), donate_argnums=0)

    def step(self, batch: Batch, step: Step) -> tuple[Samples, dict[str, float], dict[str, np.ndarray]]:
        """Takes one step; returns what it trained on, the losses, and the gradients by torchvision's names."""
        bucket, canvas = batch.images.shape[1:3], tuple(batch.canvas[0].tolist())
        drawn = draw(self.config, bucket, canvas, step)
        batch, drawn = jax.tree.map(jnp.asarray, (batch, drawn))
        samples = self._samples(batch, drawn)
        self.state, metrics = self._step(self.state, batch, samples)
        variables = self.state.variables | {"params": self.state.optimizer[0]}
        losses = {name: float(metrics[name]) for name in step.losses}
        return jax.device_get(samples), losses, self._by_name(variables)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Weights and statistics as they are now, by torchvision's names."""
        return self._by_name(self.state.variables)

    def _by_name(self, variables: dict[str, Any]) -> dict[str, np.ndarray]:
        return torchvision.to_state_dict(jax.device_get(variables), self.config)


def batches(pictures: Sequence[Sequence[Example]], short_side: int, max_long_side: int) -> Iterator[Batch]:
    """The pictures through our data pipeline, with whole masks, all in one bucket, each batch on its common canvas."""
    examples = [example for group in pictures for example in group]
    sizes = [images.resized_size(example.image.shape[:2], short_side, max_long_side) for example in examples]
    settings = DataConfig(test_short_side=short_side, test_max_long_side=max_long_side, mask_store="full")
    settings.test_buckets = (images.ceil32(np.max(sizes, axis=0)),)
    settings.max_instances = max(1, *(len(example.boxes) for example in examples))
    for batch, *_ in pipeline.eval_batches(Pictures(examples), settings, batch_size=len(pictures[0])):
        yield batch._replace(canvas=np.repeat(batch.canvas.max(axis=0, keepdims=True), len(batch.canvas), axis=0))


class Pictures:
    """Examples as a data set."""

    def __init__(self, examples: Sequence[Example]):
        self.examples = examples
        self.sizes = np.array([example.image.shape[:2] for example in examples])

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]
