"""Our side of the training comparison: steps on the anchors and RoIs that torchvision sampled."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax import execution, resizing, targets, training
from maskrcnn_jax.config import Config, DataConfig, OptimizerConfig
from maskrcnn_jax.data import pipeline
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.execution import Execution, Map
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.ops import anchors, boxes, matching
from maskrcnn_jax.parity import padding
from maskrcnn_jax.structures import AnchorTargets, Batch, Instances, RoITargets
from maskrcnn_jax.training import TrainState
from maskrcnn_jax.weights import torchvision


class Step(NamedTuple):
    """A step of torchvision's training.

    Lists have one array per image. Boxes are in pixels of the resized image.
    """

    # A label for each anchor, the finest level first: 1 positive, 0 negative, -1 ignored.
    anchor_labels: list[np.ndarray]
    positive_anchors: list[np.ndarray]  # Indices of the sampled positive anchors.
    negative_anchors: list[np.ndarray]
    rois: list[np.ndarray]  # Sampled RoIs, float32 [r, 4].
    roi_classes: list[np.ndarray]  # 0 is background.
    roi_instances: list[np.ndarray]  # Indices of the matched objects.
    mask_targets: list[np.ndarray]  # Of positive RoIs, float32 [p, 28, 28]; empty without masks.
    losses: dict[str, float]
    gradients: dict[str, np.ndarray]  # Of trainable parameters, by torchvision's names.


class Drawn(NamedTuple):
    """torchvision's samples, padded to our slots, positives first."""

    anchors: Int[Array, "b s"]  # Indices into all anchors of the bucket.
    positive_anchors: Bool[Array, "b s"]
    valid_anchors: Bool[Array, "b s"]
    rois: Float[Array, "b r 4"]
    valid_rois: Bool[Array, "b r"]


class Samples(NamedTuple):
    """Our targets for torchvision's samples."""

    anchors: AnchorTargets
    rois: RoITargets
    anchor_labels: Int[Array, "b n"]  # Of all anchors of the bucket.
    masks: Float[Array, "b r m m"] | None  # Mask targets; None without a mask head.


def draw(
    config: ModelConfig, bucket: tuple[int, int], canvas: tuple[int, int], step: Step
) -> Drawn:
    """Puts torchvision's samples into our slots.

    Positive RoIs move to the front, because the mask head trains on the first slots.
    """
    places = anchor_places(bucket, canvas, config)
    pairs = zip(step.positive_anchors, step.negative_anchors, strict=True)
    indices = [places[np.concatenate(pair)] for pair in pairs]
    orders = [np.argsort(classes == 0, kind="stable") for classes in step.roi_classes]
    rois = [x[order] for x, order in zip(step.rois, orders, strict=True)]
    anchor_slots, roi_slots = np.arange(config.rpn.num_samples), np.arange(config.roi.num_samples)
    return Drawn(
        anchors=_slots(indices, len(anchor_slots)).astype(np.int32),
        positive_anchors=np.array([anchor_slots < len(x) for x in step.positive_anchors]),
        valid_anchors=np.array([anchor_slots < len(x) for x in indices]),
        rois=_slots(rois, len(roi_slots)),
        valid_rois=np.array([roi_slots < len(x) for x in rois]),
    )


def anchor_places(
    bucket: tuple[int, int], canvas: tuple[int, int], config: ModelConfig
) -> Int[np.ndarray, " n"]:
    """The index in the bucket of each anchor of the canvas, in the order of torchvision."""
    places, start = [], 0
    for level, (height, width) in anchors.map_shapes(bucket, config.levels).items():
        count = height * width * config.anchors_per_cell
        indices = {level: np.arange(start, start + count)}
        places.append(padding.crop_anchors(indices, canvas, bucket)[level])
        start += count
    return np.concatenate(places)


def _slots(arrays: list[np.ndarray], count: int) -> np.ndarray:
    """Stacks arrays of different lengths, padded with zeros to ``count``."""
    return np.concatenate([padding.slots(array, count) for array in arrays])


def make_samples(batch: Batch, drawn: Drawn, *, config: ModelConfig) -> Samples:
    """Computes our targets for torchvision's samples."""
    bucket = batch.images.shape[1:3]
    shapes = anchors.map_shapes(bucket, config.levels)
    anchor_one = partial(_anchor_targets, shapes=shapes, config=config)
    inputs = drawn.anchors, drawn.positive_anchors, drawn.valid_anchors
    anchor_targets, labels = jax.vmap(anchor_one)(batch.instances, batch.canvas, *inputs)
    roi_one = partial(_roi_targets, config=config)
    rois = jax.vmap(roi_one)(batch.instances, drawn.rois, drawn.valid_rois)
    masks = None
    if config.mask_head is not None:
        positives = jax.tree.map(lambda x: x[:, : targets.num_mask_samples(config)], rois)
        resolution = 2 * config.mask_head.resolution
        mask_one = partial(targets.mask_targets, resolution=resolution)
        masks = jax.vmap(mask_one)(positives, batch.instances, batch.sizes, batch.canvas)
    return Samples(anchor_targets, rois, labels, masks)


def _anchor_targets(
    instances: Instances,
    canvas: Int[Array, "2"],
    indices: Int[Array, " s"],
    positive: Bool[Array, " s"],
    valid: Bool[Array, " s"],
    *,
    shapes: dict[int, tuple[int, int]],
    config: ModelConfig,
) -> tuple[AnchorTargets, Int[Array, " n"]]:
    """Targets of given anchors, and labels of all anchors."""
    rpn = config.rpn
    grids = anchors.pyramid_anchors(shapes, canvas, **rpn.anchors)
    grid, inside = (jnp.concatenate(parts) for parts in zip(*grids.values(), strict=True))
    rule = {"positive_iou": rpn.positive_iou, "negative_iou": rpn.negative_iou}
    rule |= {"low_quality": rpn.low_quality, "min_low_quality_iou": rpn.min_low_quality_iou}

    def overlaps(objects: Float[Array, "s 4"]) -> Float[Array, "s n"]:
        return jnp.where(inside.reshape(1, -1), boxes.pairwise_iou(objects, grid), -1.0)

    matched, labels = matching.match(instances.boxes, instances.valid, overlaps, **rule)
    deltas = boxes.encode(instances.boxes[matched[indices]], grid[indices], rpn.box_weights)
    deltas = jnp.where(positive.reshape(-1, 1), deltas, 0)
    return AnchorTargets(indices, positive, deltas, valid), labels


def _roi_targets(
    instances: Instances,
    rois: Float[Array, "r 4"],
    valid: Bool[Array, " r"],
    *,
    config: ModelConfig,
) -> RoITargets:
    """Targets of given RoIs of one image."""
    threshold = config.roi.positive_iou
    thresholds = {"positive_iou": threshold, "negative_iou": threshold}
    overlaps = partial(boxes.pairwise_iou, b=rois)
    matched, labels = matching.match(instances.boxes, instances.valid, overlaps, **thresholds)
    positive = valid & (labels == 1)
    deltas = boxes.encode(instances.boxes[matched], rois, config.roi.box_weights)
    deltas = jnp.where(positive.reshape(-1, 1), deltas, 0)
    classes = jnp.where(positive, instances.classes[matched], 0)
    return RoITargets(rois, classes, deltas, matched, positive, valid)


def replaying(samples: Samples) -> Map:
    """An `Execution.per_image` that replaces the results of the two sampling stages."""
    given = {targets.anchor_targets: samples.anchors, targets.roi_targets: samples.rois}

    def per_image(stage: Callable[..., Any]) -> Callable[..., Any]:
        function = getattr(stage, "func", stage)
        return (lambda *_: given[function]) if function in given else jax.vmap(stage)

    return per_image


def make_step(
    config: ModelConfig, optimizer: optax.GradientTransformation, run: Execution
) -> Callable[[TrainState, Batch, Samples], tuple[TrainState, dict[str, Array]]]:
    """Makes a `training.train_step` that trains on given samples."""

    def step(
        state: TrainState, batch: Batch, samples: Samples
    ) -> tuple[TrainState, dict[str, Array]]:
        model = MaskRCNN(config, run=run._replace(per_image=replaying(samples)))
        key = jax.random.key(0)
        return training.train_step(state, batch, key, model=model, optimizer=optimizer)

    return step


def make_optimizer(config: Config, params: dict[str, Any]) -> optax.GradientTransformation:
    """`training.make_optimizer` with the gradients of the last step in front of its state."""

    def zeros(params: dict[str, Any]) -> dict[str, Any]:
        return jax.tree.map(jnp.zeros_like, params)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return gradients, gradients

    keep = optax.GradientTransformation(zeros, update)
    return optax.chain(keep, training.make_optimizer(config, params))


class Trainer:
    """Trains our model on torchvision's samples.

    Args:
        config: The model and its training rules.
        state: The initial weights by torchvision's names.
        optimizer: The settings; the learning rate is not scaled by the batch size.
        jit: Compiles functions; by default as in training.
    """

    def __init__(
        self,
        config: ModelConfig,
        state: dict[str, np.ndarray],
        optimizer: OptimizerConfig,
        jit: Callable[..., Any] | None = None,
    ):
        self.config = config
        run = execution.choose()
        jit = jit or run.jit
        variables = torchvision.from_state_dict(state, config)
        settings = Config(model=config, optimizer=optimizer)
        settings.batch_size = training.REFERENCE_BATCH
        transformation = make_optimizer(settings, variables["params"])
        self.state = training.create_state(variables, transformation)
        self._samples = jit(partial(make_samples, config=config))
        self._step = jit(make_step(config, transformation, run), donate_argnums=0)

    def step(
        self, batch: Batch, step: Step
    ) -> tuple[Samples, dict[str, float], dict[str, np.ndarray]]:
        """Takes one step; returns its samples, losses, and gradients by torchvision's names."""
        bucket, canvas = batch.images.shape[1:3], tuple(batch.canvas[0].tolist())
        drawn = draw(self.config, bucket, canvas, step)
        batch, drawn = jax.tree.map(jnp.asarray, (batch, drawn))
        samples = self._samples(batch, drawn)
        self.state, metrics = self._step(self.state, batch, samples)
        gradients = self._by_name(self.state.variables | {"params": self.state.optimizer[0]})
        losses = {name: float(metrics[name]) for name in step.losses}
        return jax.device_get(samples), losses, gradients

    def state_dict(self) -> dict[str, np.ndarray]:
        """The current weights and statistics by torchvision's names."""
        return self._by_name(self.state.variables)

    def _by_name(self, variables: dict[str, Any]) -> dict[str, np.ndarray]:
        return torchvision.to_state_dict(jax.device_get(variables), self.config)


def batches(
    groups: Sequence[Sequence[Example]],
    short_side: int,
    max_long_side: int,
    image_padding: int = 32,
) -> Iterator[Batch]:
    """Makes a batch of each group of examples with our data pipeline and whole masks.

    All batches have the same bucket, and all images of a batch the same canvas, for
    ``image_padding`` as `DataConfig.padding`.
    """
    examples = [example for group in groups for example in group]
    shapes = [example.image.shape[:2] for example in examples]
    sizes = [resizing.resized_size(shape, short_side, max_long_side) for shape in shapes]
    settings = DataConfig(test_short_side=short_side, test_max_long_side=max_long_side)
    settings.mask_store, settings.padding = "full", image_padding
    settings.test_buckets = (resizing.ceil32(np.max(sizes, axis=0)),)
    settings.max_instances = max(1, *(len(example.boxes) for example in examples))
    dataset, batch_size = InMemory(examples), len(groups[0])
    for batch, *_ in pipeline.eval_batches(dataset, settings, batch_size=batch_size):
        canvas = np.broadcast_to(batch.canvas.max(axis=0), batch.canvas.shape)
        yield batch._replace(canvas=canvas)


class InMemory:
    """Adapts a list of examples to the interface of a data set."""

    categories = Categories.torchvision_coco()

    def __init__(self, examples: Sequence[Example]):
        self.examples = examples
        self.sizes = np.array([example.image.shape[:2] for example in examples])
        self.image_ids = np.array([example.image_id for example in examples])
        self.labels = [example.classes for example in examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]
