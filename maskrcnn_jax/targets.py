"""What to learn from: which anchors and RoIs of one image enter the losses, and what they should predict."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.config import RoIConfig, RPNConfig
from maskrcnn_jax.ops import anchors, boxes, masks, matching, sampling
from maskrcnn_jax.structures import AnchorTargets, Instances, Proposals, RoITargets


def anchor_targets(
    key: sampling.Key,
    instances: Instances,
    canvas: Int[Array, "2"],
    *,
    shapes: dict[int, tuple[int, int]],
    config: RPNConfig,
) -> AnchorTargets:
    """Samples anchors, half of them close to an object if there are enough (section 3.1.3 of Faster R-CNN).

    Anchors in the padding of the canvas take part, as background. The draw of an anchor depends on its level, row,
    column and ratio, not on the size of the bucket.
    """
    grids = anchors.pyramid_anchors(shapes, canvas, config.anchor_sizes, config.aspect_ratios)
    grid, inside = (jnp.concatenate(parts) for parts in zip(*grids.values(), strict=True))
    # Anchors beyond the canvas, which only a larger bucket has, must not be the closest to an object.
    iou = jnp.where(inside.reshape(1, -1), boxes.pairwise_iou(instances.boxes, grid), -1.0)
    matched, labels = matching.match(
        iou,
        _with_area(instances),
        positive_iou=config.positive_iou,
        negative_iou=config.negative_iou,
        low_quality=True,
    )
    indices, positive, valid = sampling.sample(
        _grid_priorities(key, shapes, len(config.aspect_ratios)),
        inside & (labels == 1),
        inside & (labels == 0),
        num_samples=config.num_samples,
        max_positives=int(config.num_samples * config.positive_fraction),
    )
    deltas = boxes.encode(instances.boxes[matched[indices]], grid[indices], config.box_weights)
    return AnchorTargets(indices, positive, jnp.where(positive.reshape(-1, 1), deltas, 0), valid)


def roi_targets(key: sampling.Key, proposals: Proposals, instances: Instances, *, config: RoIConfig) -> RoITargets:
    """Samples proposals and ground-truth boxes, at most a quarter of them objects (section 2.3 of Fast R-CNN).

    The objects themselves are candidates too, so that the heads see perfect boxes from the first step on.
    """
    candidates = jnp.concatenate([proposals.boxes, instances.boxes])
    present = _with_area(instances)
    exists = jnp.concatenate([proposals.valid, present])
    iou = boxes.pairwise_iou(instances.boxes, candidates)
    matched, labels = matching.match(
        iou, present, positive_iou=config.positive_iou, negative_iou=config.positive_iou, low_quality=False
    )
    # Separate keys, so that neither draw depends on the number of slots of the other.
    proposal_key, instance_key = jax.random.split(key)
    priority = jnp.concatenate(
        [
            sampling.priorities(proposal_key, jnp.arange(len(proposals.boxes))),
            sampling.priorities(instance_key, jnp.arange(len(instances.boxes))),
        ]
    )
    indices, positive, valid = sampling.sample(
        priority,
        exists & (labels == 1),
        exists & (labels == 0),
        num_samples=config.num_samples,
        max_positives=max_positives(config),
    )
    rois, matched = candidates[indices], matched[indices]
    deltas = boxes.encode(instances.boxes[matched], rois, config.box_weights)
    return RoITargets(
        boxes=rois,
        classes=jnp.where(positive, instances.classes[matched], 0),
        deltas=jnp.where(positive.reshape(-1, 1), deltas, 0),
        instances=matched,
        positive=positive,
        valid=valid,
    )


def max_positives(config: RoIConfig) -> int:
    """Positives that `roi_targets` samples at most: its first slots, the only ones with something for the mask head."""
    return int(config.num_samples * config.positive_fraction)


def mask_targets(
    rois: RoITargets, instances: Instances, size: Int[Array, "2"], *, bucket: tuple[int, int], resolution: int
) -> Float[Array, "r m m"]:
    """The share of each cell of each RoI that the matched object covers, in [0, 1]; zero unless positive.

    Args:
        size: Height and width of the image.
        bucket: Height and width of its array. Masks of this shape are bitmaps of the whole image, and the targets are
            torchvision's; others are crops of their boxes, see `Instances`.
    """
    positive = rois.positive.reshape(-1, 1)
    if instances.masks.shape[1:] == tuple(bucket):
        boxes_to_cut = jnp.where(positive, rois.boxes, 0)  # The largest RoI sets the pace for its neighbours.
        target = masks.project(instances.masks, rois.instances, boxes_to_cut, size, resolution)
    else:
        matched = rois.instances
        target = masks.crop_and_resize(instances.masks[matched], instances.boxes[matched], rois.boxes, resolution)
    return jnp.where(positive[..., None], target, 0)


def _with_area(instances: Instances) -> Bool[Array, " g"]:
    """Whether a slot holds an object that a box can match; one without area would make every anchor its best."""
    return instances.valid & (boxes.area(instances.boxes) > 0)


def _grid_priorities(key: sampling.Key, shapes: dict[int, tuple[int, int]], num_ratios: int) -> Array:
    """Random priorities of the anchors of all levels, in the order of `anchors.pyramid_anchors`."""
    levels = []
    for level in sorted(shapes):
        height, width = shapes[level]
        row, column, ratio = jnp.meshgrid(*map(jnp.arange, (height, width, num_ratios)), indexing="ij")
        position = ((row << 14) + column) * num_ratios + ratio  # Any numbering will do that ignores the map's size.
        levels.append(sampling.priorities(jax.random.fold_in(key, level), position.reshape(-1)))
    return jnp.concatenate(levels)
