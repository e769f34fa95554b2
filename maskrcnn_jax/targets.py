"""Training targets of one image: the anchors and RoIs in the losses, and their predictions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from maskrcnn_jax.model_config import ModelConfig, RoIConfig, RPNConfig
from maskrcnn_jax.ops import anchors, boxes, masks, matching, sampling
from maskrcnn_jax.structures import AnchorTargets, Bitmaps, Crops, Instances, Proposals, RoITargets


def anchor_targets(
    key: sampling.Key,
    instances: Instances,
    canvas: Int[Array, "2"],
    *,
    shapes: dict[int, tuple[int, int]],
    config: RPNConfig,
) -> AnchorTargets:
    """Samples anchors, up to half of them positive (section 3.1.3 of Faster R-CNN).

    Anchors in the padding of the canvas take part as background. The draw of an anchor depends on
    its level, row, column and ratio, not on the size of the bucket.

    Args:
        key: For the draws of this image.
        instances: Ground truth.
        canvas: Height and width of the padded image in pixels; anchors beyond it are ignored.
        shapes: Per level, height and width of the feature map.
        config: Anchors, thresholds and numbers of samples.
    """
    grids = anchors.pyramid_anchors(shapes, canvas, **config.anchors)
    grid = boxes.concatenate([grid for grid, _ in grids.values()])
    inside = jnp.concatenate([inside for _, inside in grids.values()])
    # The loop of the matching takes the coordinates: all anchors as [n, 4] would fill 131 MiB of a
    # TPU for 800x1344, in which the last axis is padded to 128.
    corners = boxes.split(grid)

    def overlaps(objects: Float[Array, "s 4"]) -> Float[Array, "s n"]:
        iou = boxes.pairwise_iou(objects, boxes.join(*corners))
        # Anchors beyond the canvas, which only a larger bucket has, must not be the best of an
        # object.
        return jnp.where(inside.reshape(1, -1), iou, -1.0)

    matched, labels = matching.match(
        instances.boxes,
        _with_area(instances),
        overlaps,
        positive_iou=config.positive_iou,
        negative_iou=config.negative_iou,
        low_quality=config.low_quality,
        min_low_quality_iou=config.min_low_quality_iou,
    )
    indices, positive, valid = sampling.sample(
        _grid_priorities(key, shapes, len(grid)),
        inside & (labels == 1),
        inside & (labels == 0),
        num_samples=config.num_samples,
        max_positives=int(config.num_samples * config.positive_fraction),
    )
    deltas = boxes.encode(
        instances.boxes[matched[indices]], boxes.take(grid, indices), config.box_weights
    )
    return AnchorTargets(indices, positive, jnp.where(positive.reshape(-1, 1), deltas, 0), valid)


def roi_targets(
    key: sampling.Key, proposals: Proposals, instances: Instances, *, config: RoIConfig
) -> RoITargets:
    """Samples proposals and ground-truth boxes (section 2.3 of Fast R-CNN).

    At most ``config.positive_fraction`` of them match an object. The ground-truth boxes are
    candidates too, so that the heads see perfect boxes from the first step on.

    Args:
        key: For the draws of this image.
        proposals: The other candidates.
        instances: Ground truth.
        config: The threshold and the numbers of samples.
    """

    def joined(of_proposals: Array, of_instances: Array) -> Array:
        parts = of_proposals, of_instances
        return jnp.concatenate(parts if config.ground_truth == "last" else parts[::-1])

    candidates = joined(proposals.boxes, instances.boxes)
    exists = joined(proposals.valid, _with_area(instances))
    matched, labels = _match_rois(candidates, exists, instances, config)
    # Separate keys, so that neither draw depends on the number of slots of the other.
    proposal_key, instance_key = jax.random.split(key)
    priority = joined(
        sampling.priorities(proposal_key, jnp.arange(len(proposals.boxes))),
        sampling.priorities(instance_key, jnp.arange(len(instances.boxes))),
    )
    indices, positive, valid = sampling.sample(
        priority,
        exists & (labels == 1),
        exists & (labels == 0),
        num_samples=config.num_samples,
        max_positives=max_positives(config),
    )
    return _targets(candidates[indices], matched[indices], positive, valid, instances, config)


def rematched_targets(
    proposals: Proposals, instances: Instances, *, config: RoIConfig
) -> RoITargets:
    """Targets of all boxes that an earlier stage of a cascade has refined; none is drawn.

    Boxes without an area take no part. The positive ones do not come first. The objects are no
    candidates, whatever ``config.ground_truth`` says.
    """
    rois, valid = proposals.boxes, proposals.valid & boxes.has_area(proposals.boxes)
    matched, labels = _match(rois, valid, instances, config)
    return _targets(rois, matched, valid & (labels == 1), valid, instances, config)


def _targets(
    rois: Float[Array, "r 4"],
    matched: Int[Array, " r"],
    positive: Bool[Array, " r"],
    valid: Bool[Array, " r"],
    instances: Instances,
    config: RoIConfig,
) -> RoITargets:
    deltas = boxes.encode(instances.boxes[matched], rois, config.box_weights)
    return RoITargets(
        boxes=rois,
        classes=jnp.where(positive, instances.classes[matched], 0),
        deltas=jnp.where(positive.reshape(-1, 1), deltas, 0),
        instances=matched,
        positive=positive,
        valid=valid,
    )


def _match_rois(
    candidates: Float[Array, "r 4"],
    exists: Bool[Array, " r"],
    instances: Instances,
    config: RoIConfig,
) -> tuple[Int[Array, " r"], Int[Array, " r"]]:
    """The object and the label of each candidate. Objects in front belong to themselves."""
    num_given = 0 if config.ground_truth == "last" else len(instances.boxes)
    matched, labels = _match(candidates[num_given:], exists[num_given:], instances, config)
    own = jnp.arange(num_given, dtype=jnp.int32)
    return jnp.concatenate([own, matched]), jnp.concatenate([jnp.ones_like(own), labels])


def _match(
    candidates: Float[Array, "r 4"],
    exists: Bool[Array, " r"],
    instances: Instances,
    config: RoIConfig,
) -> tuple[Int[Array, " r"], Int[Array, " r"]]:
    def overlaps(objects: Float[Array, "s 4"]) -> Float[Array, "s n"]:
        # An empty slot must not become the best match of an object.
        iou = boxes.pairwise_iou(objects, candidates)
        return jnp.where(exists.reshape(1, -1), iou, -1.0)

    return matching.match(
        instances.boxes,
        _with_area(instances),
        overlaps,
        positive_iou=config.positive_iou,
        negative_iou=config.positive_iou,
        low_quality=config.low_quality,
        min_low_quality_iou=config.min_low_quality_iou,
    )


def max_positives(config: RoIConfig) -> int:
    """The most positives that `roi_targets` samples: they lie in its first slots."""
    return int(config.num_samples * config.positive_fraction)


def counted_classes(
    key: sampling.Key, rois: RoITargets, *, config: ModelConfig
) -> Bool[Array, " k"] | None:
    """The classes of one image that the loss of sigmoid scores counts (federated loss).

    They are the classes of the sampled RoIs, background included, and others up to
    ``federated_classes``. The others are drawn without replacement; the probability of a class is
    proportional to a power of its frequency. This is the rule of Detectron2's
    ``get_fed_loss_classes``, which draws once for all images of a GPU. Here each image has a draw
    of its own, so that the loss of a batch does not depend on the number of devices.

    Args:
        key: For the draws of this image.
        rois: The sampled RoIs of the image.
        config: `BoxHeadConfig` gives the number of classes, their frequencies and the power.
            Without frequencies all are equal.

    Returns:
        Whether each class counts; None for softmax, whose loss has no such choice.
    """
    head, num_classes = config.box_head, config.num_classes
    if head.classifier == "softmax":
        return None
    if head.federated_classes is None:
        return jnp.ones(num_classes, bool)
    frequencies = np.array(head.class_frequencies or (1.0,) * (num_classes - 1), np.float32)
    weights = jnp.array([0.0, *frequencies**head.federated_power], jnp.float32)
    present = jnp.zeros(num_classes, bool).at[rois.classes].max(rois.valid)
    others = jnp.where(present, 0, weights)
    # `roi_targets` splits the key, which makes the children 0 and 1.
    child = jax.random.fold_in(key, 2)
    return present | sampling.weighted(child, others, head.federated_classes - present.sum())


def num_mask_samples(config: ModelConfig) -> int:
    """RoIs per image that train the mask head: the positives, which come first, or some of them."""
    most = max_positives(config.roi)
    return min(most, config.mask_head.max_samples or most)


def mask_targets(
    rois: RoITargets,
    instances: Instances,
    size: Int[Array, "2"],
    canvas: Int[Array, "2"],
    *,
    resolution: int,
    rule: str = "share",
) -> Float[Array, "r m m"]:
    """The share of each cell of each RoI that the matched object covers, in [0, 1].

    The share is exact for `Crops`. For `Bitmaps` it is the mean of samples, as in torchvision's
    ``project_masks_on_boxes``. The other rules round to 0 and 1, and place the samples as
    Detectron2's ``BitMasks`` does. RoIs that are not positive get zeros.

    Args:
        rois: RoIs with the objects they match.
        instances: Ground truth.
        size: Height and width of the image, in pixels.
        canvas: Height and width of the padded image, in pixels.
        resolution: Cells per side.
        rule: "share", "detectron2" or "mmdetection", see `RoIConfig`.

    Raises:
        ValueError: The instances have no masks.
    """
    positive, is_binary = rois.positive.reshape(-1, 1), rule != "share"
    match instances.masks:
        case Bitmaps(bitmaps):
            # Empty boxes for the others: the largest RoI sets the number of steps of its group.
            boxes_to_cut = jnp.where(positive, rois.boxes, 0)
            end = canvas if rule == "mmdetection" else size
            project = partial(masks.project, resolution=resolution, aligned=is_binary)
            target = project(bitmaps, rois.instances, boxes_to_cut, end)
        case Crops(crops):
            matched = rois.instances
            object_boxes = instances.boxes[matched]
            target = masks.crop_and_resize(crops[matched], object_boxes, rois.boxes, resolution)
        case _:
            raise ValueError("the mask head learns from masks, but the batch has none")
    target = (target >= 0.5).astype(jnp.float32) if is_binary else target
    return jnp.where(positive[..., None], target, 0)


def _with_area(instances: Instances) -> Bool[Array, " g"]:
    """Whether a slot holds an object with an area.

    Without one, every anchor would have the same overlap of zero and be the best of the object.
    """
    return instances.valid & (boxes.area(instances.boxes) > 0)


def _grid_priorities(
    key: sampling.Key, shapes: dict[int, tuple[int, int]], num_anchors: int
) -> UInt32[Array, " n"]:
    """Random priorities of the anchors of all levels, in the order of `anchors.pyramid_anchors`."""
    per_cell = num_anchors // sum(height * width for height, width in shapes.values())
    levels = []
    for level in sorted(shapes):
        height, width = shapes[level]
        axes = map(jnp.arange, (per_cell, height, width))
        anchor, row, column = jnp.meshgrid(*axes, indexing="ij")
        # The number of an anchor must not depend on the size of the map.
        position = ((row << 14) + column) * per_cell + anchor
        level_key = jax.random.fold_in(key, level)
        levels.append(sampling.priorities(level_key, position.reshape(-1)))
    return jnp.concatenate(levels)
