"""Runs our stages of inference on small images; the stages of RoIs get the peer's RoIs."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax.config import Config
from maskrcnn_jax.detections import detect
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.parity import padding
from maskrcnn_jax.structures import Batch, Detections, Proposals


def run(
    config: Config,
    variables: dict[str, Any],
    batch: Batch,
    recorded: list[dict[str, np.ndarray]],
    jit: Callable[..., Any],
) -> list[dict[str, np.ndarray]]:
    """Computes the arrays of `small.inference_arrays` in full, for each image.

    Args:
        batch: The images. The bucket of the batch must equal the canvas.
        recorded: For each image ``proposals`` for the box head, and ``boxes`` and ``labels`` for
            the mask head.
        jit: Compiles functions.
    """
    names = "proposals", "boxes", "labels"
    rois, boxes, labels = ([arrays[name] for arrays in recorded] for name in names)
    num_rois = [len(x) for x in rois]
    valid = np.array([np.arange(max(num_rois)) < count for count in num_rois])
    inputs = [_slots(rois), valid, _slots(boxes), _slots(labels).astype(np.int32)]
    model = MaskRCNN(config.model, config.detection)
    stages = jit(nn.apply(_stages, model))
    results = stages(variables, batch.images, batch.sizes, batch.canvas, *inputs)
    levels, found = jax.device_get(results)
    return [_of_image(i, levels, found, len(rois[i]), len(boxes[i])) for i in range(len(recorded))]


def _stages(
    model: MaskRCNN,
    images: jax.Array,
    sizes: jax.Array,
    canvas: jax.Array,
    rois: jax.Array,
    valid: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays with an entry per level, and the other arrays."""
    config, image = model.config, model.normalise(images, sizes)
    pyramid = model.features(images, sizes, canvas)
    scores = model.rpn(pyramid, canvas)
    levels = {
        "backbone": model.backbone(image, canvas),
        "pyramid": pyramid,
        "objectness": scores.logits,
        "deltas": scores.deltas,
    }
    box_features = model.pool(pyramid, rois, canvas, config.box_head.resolution)
    class_logits, class_deltas = model.box_head(box_features)
    mask_features = model.pool(pyramid, boxes, canvas, config.mask_head.resolution)
    thresholds = jnp.full(len(images), model.detection.score_threshold, jnp.float32)
    detect_each = model.each(
        detect,
        config=model.detection,
        box_weights=config.roi.box_weights,
        limit_shrinking=config.limit_shrinking,
    )
    proposals = Proposals(rois, valid)
    found = {
        "image": image,
        "proposals": model.propose(scores, pyramid, sizes, canvas, model.detection),
        "box_features": box_features,
        "class_logits": class_logits,
        "class_deltas": class_deltas,
        "detections": detect_each(class_logits, class_deltas, proposals, sizes, thresholds),
        "mask_logits": model.mask_head(mask_features, labels),
    }
    return levels, found


def _of_image(
    i: int,
    levels: dict[str, dict[int, np.ndarray]],
    found: dict[str, Any],
    num_rois: int,
    num_boxes: int,
) -> dict[str, np.ndarray]:
    """The arrays of one image, without padded slots."""
    arrays = {"image": found["image"][i]}
    size = arrays["image"].shape[:2]
    for name, by_level in levels.items():
        of_image = {level: x[i] for level, x in by_level.items()}
        if name in ("objectness", "deltas"):
            of_image = padding.crop_anchors(of_image, size, size)  # The peer's order.
        arrays |= {f"{name}{level}": x for level, x in of_image.items()}
    for name in ("box_features", "class_logits", "class_deltas"):
        arrays[name] = found[name][i][:num_rois]
    proposals: Proposals = found["proposals"]
    detections: Detections = found["detections"]
    arrays["proposals"] = proposals.boxes[i][proposals.valid[i]]
    valid = detections.valid[i]
    arrays |= {"boxes": detections.boxes[i][valid], "labels": detections.classes[i][valid]}
    arrays |= {"scores": detections.scores[i][valid]}
    return arrays | {"mask_logits": found["mask_logits"][i][:num_boxes]}


def _slots(arrays: list[np.ndarray]) -> np.ndarray:
    """Stacks arrays of different lengths, padded with zeros."""
    count = max(map(len, arrays))
    return np.concatenate([padding.slots(array, count) for array in arrays])
