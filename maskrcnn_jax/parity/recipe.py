"""Random weights that give every stage of the model something to do: the same on both sides, from NumPy and a seed.

On photographs, features neither vanish nor explode, objectness and class scores spread, boxes move, and an image has
about as many detections as it has slots, of several classes.
"""

import numpy as np

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.weights import architecture, torchvision

VARIANTS = ("v1", "v1-batch-norm", "v2")

# Gain of layers of the heads, found by trial on photographs.
GAINS = {
    "rpn.head.cls_logits.weight": 3.0,
    "rpn.head.bbox_pred.weight": 0.07,
    "roi_heads.box_head.5.weight": 1.4,
    "roi_heads.box_predictor.cls_score.weight": 2.2,
    "roi_heads.box_predictor.bbox_pred.weight": 1.5,
    "roi_heads.mask_predictor.mask_fcn_logits.weight": 2.0,
}
# Of the background's logit over the largest of as many normal numbers as there are classes: without and with
# convolutions in the box head.
BACKGROUND_GAIN = {False: 2.75, True: 2.5}


def config(variant: str) -> ModelConfig:
    """The configuration of one of torchvision's models, with its 91 classes.

    ``v1`` is `maskrcnn_resnet50_fpn` as its released weights have it, with frozen batch norm, ``v1-batch-norm`` the
    same with batch norm that trains, and ``v2`` is `maskrcnn_resnet50_fpn_v2`.

    Raises:
        ValueError: There is no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}, only {', '.join(VARIANTS)}")
    if variant == "v2":
        return architecture.v2(architecture.COCO_CLASSES)
    return architecture.v1(architecture.COCO_CLASSES, "batch" if variant == "v1-batch-norm" else "frozen_batch")


def state_dict(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by torchvision's names, complete: float32, and the int64 counters of norms that train.

    Drawn in the order of `weights.torchvision.entries`, so a configuration and a seed say all.
    """
    random = np.random.default_rng(seed)
    state = {}
    for entry in torchvision.entries(config):
        name, shape = entry.name, entry.shape
        if name.endswith("running_var"):
            array = random.uniform(0.5, 1.5, shape)
        elif name.endswith("running_mean") or name.endswith("bias"):
            array = random.normal(0, 0.1, shape)
            if name == "roi_heads.box_predictor.cls_score.bias":
                array[0] += BACKGROUND_GAIN[config.box_head_convs > 0] * np.sqrt(2 * np.log(config.num_classes))
        elif len(shape) == 1:
            array = random.uniform(0.8, 1.2, shape) * _norm_gain(name, config.depth)
        else:
            array = _weight(random, name, shape)
        state[name] = array.astype(np.float32)
        if name.endswith("running_var") and entry.path[0] == "batch_stats":
            state[name.replace("running_var", torchvision.COUNTER)] = np.array(0, np.int64)
    return state


def _norm_gain(name: str, depth: int) -> float:
    """The last norm of a block is small, so that the sum over the blocks of a stage stays bounded."""
    last = ".bn3." if depth >= 50 else ".bn2."
    return 0.5 if last in name else 1.0


def _weight(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """He's rule keeps the size of activations; without a mean over the inputs, positive ones do not drown the rest."""
    inputs = 0 if "conv5_mask" in name else tuple(range(1, len(shape)))
    weight = random.normal(size=shape)
    weight -= weight.mean(axis=inputs, keepdims=True)
    fan_in = shape[0] if "conv5_mask" in name else np.prod(shape[1:])
    gain = 1.0 if "fpn" in name or "downsample" in name else 2.0
    return weight * GAINS.get(name, 1.0) * np.sqrt(gain / fan_in)
