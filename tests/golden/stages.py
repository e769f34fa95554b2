"""Our side of the comparison with torchvision: the stages one by one, each fed with torchvision's input to it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax import losses
from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.model import MaskRCNN, _concatenate, _extents, _select_class
from maskrcnn_jax.ops import anchors, boxes, matching
from maskrcnn_jax.structures import AnchorTargets, RoITargets

Arrays = dict[str, list[np.ndarray]]


def inference(config: ModelConfig, variables, images, sizes, canvas, rois, found, classes) -> Arrays:
    """Every stage of inference on a batch whose bucket is its canvas, named as `write_torchvision.stages` does.

    Args:
        rois: Per image, torchvision's proposals, for the box head.
        found: Per image, torchvision's final boxes in pixels of the resized image, for the mask head.
        classes: Their classes.
    """
    rois, num_rois = slots(rois, max(map(len, rois))), [len(x) for x in rois]
    found, num_found = slots(found, max(map(len, found))), [len(x) for x in found]
    classes = slots(classes, found.shape[1])

    @jax.jit
    @partial(nn.apply, module=MaskRCNN(config))
    def run(model, images, sizes, canvas, rois, found, classes):
        maps = model.backbone(model.normalise(images, sizes), canvas)
        pyramid = model.fpn(maps, _extents(maps, canvas))
        logits, deltas = model.rpn_head(pyramid, _extents(pyramid, canvas))
        count = config.rpn.test_num_candidates, config.rpn.test_num_proposals
        proposals = model.propose(pyramid, logits, deltas, sizes, canvas, *count)
        pooled = model.pool(pyramid, rois, canvas, config.roi.box_resolution)
        class_logits, class_deltas = model.box_head(pooled)
        mask_logits = model.mask_head(model.pool(pyramid, found, canvas, config.roi.mask_resolution))
        levels = {"C": maps, "P": pyramid, "logits": logits, "deltas": deltas}
        heads = {"pooled": pooled, "class_logits": class_logits, "class_deltas": class_deltas}
        masks = jax.nn.sigmoid(_select_class(mask_logits, classes))
        return model.normalise(images, sizes), levels, proposals, heads, masks, model(images, sizes, canvas)

    results = run(variables, images, sizes, canvas, rois, found, classes)
    inputs, levels, proposals, heads, masks, detections = jax.device_get(results)
    arrays = {"input": [inputs]}
    arrays |= {name: [by_level[level] for level in sorted(by_level)] for name, by_level in levels.items()}
    arrays["proposals"] = [b[v] for b, v in zip(proposals.boxes, proposals.valid, strict=True)]
    arrays |= {name: [x[:n] for x, n in zip(x, num_rois, strict=True)] for name, x in heads.items()}
    arrays["masks"] = [x[:n] for x, n in zip(masks, num_found, strict=True)]
    return arrays | detected(detections)


def detected(detections) -> Arrays:
    """What there is in the slots, per image."""
    names = {"boxes": detections.boxes, "labels": detections.classes, "scores": detections.scores}
    return {name: [x[v] for x, v in zip(array, detections.valid, strict=True)] for name, array in names.items()}


def detect(config: ModelConfig, variables, images, sizes) -> Arrays:
    """The whole model, each image on its own canvas."""
    return detected(jax.device_get(jax.jit(MaskRCNN(config).apply)(variables, images, sizes)))


def anchor_labels(config: ModelConfig, bucket: tuple[int, int], canvas: np.ndarray, truth: np.ndarray):
    """Of all anchors of an image: the label, the matched object and the deltas to it."""
    shapes = {level: (-(-bucket[0] // 2**level), -(-bucket[1] // 2**level)) for level in range(2, 7)}
    rpn = config.rpn

    @jax.jit
    def run(canvas, truth):
        grids = anchors.pyramid_anchors(shapes, canvas, rpn.anchor_sizes, rpn.aspect_ratios)
        grid = jnp.concatenate([boxes for boxes, _ in grids.values()])
        matched, labels = matching.match(
            boxes.pairwise_iou(truth, grid),
            jnp.ones(len(truth), bool),
            positive_iou=rpn.positive_iou,
            negative_iou=rpn.negative_iou,
            low_quality=True,
        )
        return grid, labels, boxes.encode(truth[matched], grid, rpn.box_weights)

    return jax.device_get(run(jnp.asarray(canvas), jnp.asarray(truth)))


def roi_labels(config: ModelConfig, candidates: np.ndarray, truth: np.ndarray):
    """Of the candidates of an image: the label, the matched object and the deltas to it."""
    threshold = config.roi.positive_iou

    @jax.jit
    def run(candidates, truth):
        matched, labels = matching.match(
            boxes.pairwise_iou(truth, candidates),
            jnp.ones(len(truth), bool),
            positive_iou=threshold,
            negative_iou=threshold,
            low_quality=False,
        )
        return labels, matched, boxes.encode(truth[matched], candidates, config.roi.box_weights)

    return jax.device_get(run(jnp.asarray(candidates), jnp.asarray(truth)))


def sampled_anchors(config: ModelConfig, positives, negatives, deltas) -> AnchorTargets:
    """torchvision's sample of anchors as targets; ``deltas`` are those of all anchors, per image."""
    indices = [np.concatenate(pair) for pair in zip(positives, negatives, strict=True)]
    count = config.rpn.num_samples
    positive = np.array([np.arange(count) < len(x) for x in positives])
    chosen = slots([x[i] for x, i in zip(deltas, indices, strict=True)], count)
    valid = np.array([np.arange(count) < len(x) for x in indices])
    return AnchorTargets(
        slots(indices, count).astype(np.int32), positive, np.where(positive[..., None], chosen, 0), valid
    )


def sampled_rois(config: ModelConfig, rois, classes, instances, truth) -> tuple[RoITargets, list[np.ndarray]]:
    """torchvision's sample of RoIs as targets, positives moved to the front, and the order that did it."""
    orders = [np.argsort(x == 0, kind="stable") for x in classes]
    rois, classes, instances = (
        [x[order] for x, order in zip(arrays, orders, strict=True)] for arrays in (rois, classes, instances)
    )
    deltas = []
    for i in range(len(rois)):
        encoded = boxes.encode(jnp.asarray(truth[i][instances[i]]), jnp.asarray(rois[i]), config.roi.box_weights)
        deltas.append(np.where(classes[i][:, None] > 0, encoded, 0))
    count = config.roi.num_samples
    padded = [slots(arrays, count) for arrays in (rois, classes, deltas, instances)]
    boxes_, classes_, deltas_, instances_ = padded
    valid = np.array([np.arange(count) < len(x) for x in rois])
    classes_, instances_ = classes_.astype(np.int32), instances_.astype(np.int32)
    return RoITargets(boxes_, classes_, deltas_, instances_, classes_ > 0, valid), orders


def losses_and_gradients(config: ModelConfig, variables, images, sizes, canvas, anchor_targets, rois, masks):
    """The five mean losses for given samples and mask targets, and the gradient of their sum by the parameters."""

    @partial(nn.apply, module=MaskRCNN(config))
    def run(model, images, sizes, canvas, anchor_targets, rois, masks):
        pyramid = model.features(images, sizes, canvas)
        logits, deltas = model.rpn_head(pyramid, _extents(pyramid, canvas))
        found = losses.rpn_loss(
            _concatenate(logits), _concatenate(deltas), anchor_targets, beta=config.rpn.smooth_l1_beta
        )
        class_logits, class_deltas = model.box_head(model.pool(pyramid, rois.boxes, canvas, config.roi.box_resolution))
        found |= losses.box_loss(class_logits, class_deltas, rois, beta=config.roi.smooth_l1_beta)
        positives = jax.tree.map(lambda x: x[:, : masks.shape[1]], rois)
        pooled = model.pool(pyramid, positives.boxes, canvas, config.roi.mask_resolution)
        found |= losses.mask_loss(model.mask_head(pooled), masks, positives)
        means = {name: losses.mean(loss) for name, loss in found.items()}
        return sum(means.values()), means

    def total(params, *inputs):
        return run({"params": params, "constants": variables["constants"]}, *inputs)

    step = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, means), gradients = step(variables["params"], images, sizes, canvas, anchor_targets, rois, masks)
    return {name: float(x) for name, x in means.items()}, jax.device_get(gradients)


def slots(arrays: list[np.ndarray], count: int) -> np.ndarray:
    """Arrays of different lengths as one, padded with zeros."""
    return np.stack([np.pad(x, [(0, count - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in arrays])


def share_found(theirs, ours, *, pixels: float = 0.05, score: float = 1e-4) -> float:
    """Share of torchvision's (boxes, labels, scores) that have a partner of their own among ours."""
    free = np.ones(len(ours[0]), bool)
    hits = 0
    for box, label, value in zip(*theirs, strict=True):
        near = free & (np.abs(ours[0] - box).max(axis=1) < pixels) & (ours[1] == label)
        near &= np.abs(ours[2] - value) < score
        if near.any():
            free[near.argmax()] = False
            hits += 1
    return hits / len(theirs[0])


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
