"""Our stages of inference on small images: those that see RoIs are fed with torchvision's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.detections import detect
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.parity import padding
from maskrcnn_jax.structures import Batch, Detections, Proposals


def run(
    config: ModelConfig,
    variables: dict[str, Any],
    batch: Batch,
    recorded: list[dict[str, np.ndarray]],
    jit: Callable[..., Any],
) -> list[dict[str, np.ndarray]]:
    """Per image the arrays that `write_torchvision.inference_arrays` records, whole.

    Args:
        batch: Its bucket is its canvas; of its images, not of its objects.
        recorded: Per image ``proposals`` for the box head, and ``boxes`` and ``labels`` for the mask head.
        jit: Compiles functions.
    """
    rois, boxes, labels = ([arrays[name] for arrays in recorded] for name in ("proposals", "boxes", "labels"))
    counts = [len(x) for x in rois], [len(x) for x in boxes]
    valid = np.array([np.arange(max(counts[0])) < count for count in counts[0]])
    inputs = [_slots(rois), valid, _slots(boxes), _slots(labels).astype(np.int32)]
    stages = jit(nn.apply(_stages, MaskRCNN(config)))
    levels, found = jax.device_get(stages(variables, batch.images, batch.sizes, batch.canvas, *inputs))
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
    config, image = model.config, model.normalise(images, sizes)
    maps = model.backbone(image, canvas)
    pyramid = model.features(images, sizes, canvas)
    logits, deltas = model.rpn_head(pyramid, {level: -(-canvas // 2**level) for level in pyramid})
    proposals = model.propose(
        pyramid, logits, deltas, sizes, canvas, config.rpn.test_num_candidates, config.rpn.test_num_proposals
    )
    box_features = model.pool(pyramid, rois, canvas, config.roi.box_resolution)
    class_logits, class_deltas = model.box_head(box_features)
    detect_one = partial(detect, config=config.detection, box_weights=config.roi.box_weights)
    threshold = jnp.full(len(images), config.detection.score_threshold, jnp.float32)
    detections = jax.vmap(detect_one)(class_logits, class_deltas, Proposals(rois, valid), sizes, threshold)
    mask_features = model.pool(pyramid, boxes, canvas, config.roi.mask_resolution)
    mask_logits = model.mask_head(mask_features, labels)
    levels = {"backbone": maps, "pyramid": pyramid, "objectness": logits, "deltas": deltas}
    heads = {"box_features": box_features, "class_logits": class_logits, "class_deltas": class_deltas}
    return levels, heads | {
        "image": image,
        "proposals": proposals,
        "detections": detections,
        "mask_logits": mask_logits,
    }


def _of_image(
    i: int, levels: dict[str, dict[int, np.ndarray]], found: dict[str, Any], num_rois: int, num_boxes: int
) -> dict[str, np.ndarray]:
    arrays = {f"{name}{level}": x[i] for name, by_level in levels.items() for level, x in by_level.items()}
    arrays |= {name: found[name][i][:num_rois] for name in ("box_features", "class_logits", "class_deltas")}
    proposals: Proposals = found["proposals"]
    detections: Detections = found["detections"]
    there = detections.valid[i]
    arrays |= {"boxes": detections.boxes[i][there], "labels": detections.classes[i][there]}
    arrays |= {"scores": detections.scores[i][there], "proposals": proposals.boxes[i][proposals.valid[i]]}
    return arrays | {"image": found["image"][i], "mask_logits": found["mask_logits"][i][:num_boxes]}


def _slots(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([padding.slots(array, max(map(len, arrays))) for array in arrays])
