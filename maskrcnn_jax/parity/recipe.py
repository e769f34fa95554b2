"""Random weights that exercise every stage, from NumPy and a seed alone.

`config` names models of torchvision, Detectron2 and MMDetection; `variables` draws their weights.

On photographs, features neither vanish nor explode, objectness and class scores spread widely,
boxes move, and an image has about as many detections as slots, of several classes.
"""

import re
from functools import partial
from typing import Any

import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig
from maskrcnn_jax.weights import layout, torchvision, torchvision_resnet
from maskrcnn_jax.weights.torchvision_resnet import COUNTER

MODELS = {
    "v1": presets.maskrcnn_resnet50_fpn,
    "v1-batch-norm": partial(presets.maskrcnn_resnet50_fpn, norm="batch"),
    "v2": presets.maskrcnn_resnet50_fpn_v2,
    "faster-v1": presets.fasterrcnn_resnet50_fpn,
    "faster-v2": presets.fasterrcnn_resnet50_fpn_v2,
    "convnext-tiny": presets.maskrcnn_convnext_tiny_fpn,
}
VARIANTS = tuple(MODELS)
# The models with random weights of each family; the first is the default.
FAMILIES = {
    "torchvision": VARIANTS,
    "detectron2": tuple(name for name in presets.OF_OTHERS if name.startswith("detectron2_")),
    "mmdet": tuple(name for name in presets.OF_OTHERS if name.startswith("mmdet_")),
}

DEVIATION = 58 / 255  # Of the pixels of photographs.
# Gains of layers in the heads, found by trial on photographs.
GAINS = {
    "rpn.head.cls_logits.weight": 3.0,
    "rpn.head.bbox_pred.weight": 0.07,
    "roi_heads.box_head.5.weight": 1.4,
    "roi_heads.box_predictor.cls_score.weight": 2.2,
    "roi_heads.box_predictor.bbox_pred.weight": 1.5,
    "roi_heads.mask_predictor.mask_fcn_logits.weight": 2.0,
}
# In a C4 network the classifier reads means over the cells of an RoI, which vary less.
OF_MEANS = {"roi_heads.box_predictor.cls_score.weight": 11.0}
# In a DC5 network the box head reads C5 itself. After its ReLU, all RoIs share the channels' means.
OF_C5 = {"roi_heads.box_predictor.cls_score.weight": 6.6}
# Features of a pyramid behind group norm vary more. MMDetection ranks anchors by probabilities in
# float32, of which many are equal where logits are large.
OF_GROUP_NORM = {"rpn.head.cls_logits.weight": 2.0}
# The maps of a ConvNeXt have no ReLU and vary five times as much as those of a ResNet.
OF_CONVNEXT = {f"backbone.fpn.inner_blocks.{i}.0.weight": 0.2 for i in range(4)}
# The bias of the background logit, in units of the expected maximum of ``num_classes`` normal
# numbers, for box heads without and with convolutions.
BACKGROUND_GAIN = {False: 2.75, True: 2.5}

# Rows of layers that belong to background.
BACKGROUND_ROWS = {
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}


STAGE = re.compile(r"\.stage_\d+(?=\.)")  # Of a cascade, in the name of a layer.


def config(variant: str) -> ModelConfig:
    """The configuration of one of torchvision's models with 91 classes.

    ``v1`` is `maskrcnn_resnet50_fpn` with frozen batch norm, as in its released weights.
    ``v1-batch-norm`` is the same model with trainable batch norm, and ``v2`` is
    `maskrcnn_resnet50_fpn_v2`. ``faster-v1`` and ``faster-v2`` are `fasterrcnn_resnet50_fpn` and
    `fasterrcnn_resnet50_fpn_v2`: v1 and v2 without a mask head. ``convnext-tiny`` is `MaskRCNN` on
    torchvision's ConvNeXt-T.

    Raises:
        ValueError: There is no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}, only {', '.join(VARIANTS)}")
    return MODELS[variant]()


def whole_config(name: str) -> Config:
    """The config of one of `FAMILIES`, with its rules.

    Raises:
        ValueError: There is no such model.
    """
    return presets.OF_OTHERS[name]() if name in presets.OF_OTHERS else Config(model=config(name))


def variables(config: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """Draws the variables of a model of any family, as `state_dict` does.

    Boxes and masks of background, which nothing reads, are zero: only torchvision has them.
    """
    arrays = torchvision_resnet.without_counters(state_dict(config, seed))
    for name, array in arrays.items():
        rows = BACKGROUND_ROWS.get(STAGE.sub("", name).rpartition(".")[0], 0)
        if len(array) > rows:  # Not one box, or one mask, for all classes.
            array[:rows] = 0
    return layout.arrange(arrays, list(torchvision.layers(config)))


def state_dict(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws a complete state dict by torchvision's names: float32, and int64 counters of batches.

    The draws follow the order of `weights.torchvision.layers`, so a configuration and a seed
    determine all weights. The mask head comes last, so the other weights do not depend on it. Norms
    that torchvision does not have, such as group norm, have the names of its batch norm.
    """
    random = np.random.default_rng(seed)
    state = {}
    for entry in torchvision.layers(config):
        name, shape = STAGE.sub("", entry.name), entry.shape
        if name.endswith("running_var"):
            array = random.uniform(0.5, 1.5, shape)
        elif name.endswith("running_mean") or name.endswith("bias"):
            array = random.normal(0, 0.1, shape)
            if name == "roi_heads.box_predictor.cls_score.bias":
                array[0] += _background_logit(config)
        elif len(shape) == 1:
            array = random.uniform(0.8, 1.2, shape) * _norm_gain(name, config)
        elif name.endswith("layer_scale"):
            array = random.uniform(0.2, 0.6, shape)
        else:
            array = _weight(random, name, shape, _gains(config).get(name, 1.0))
        state[entry.name] = array.astype(np.float32)
        if name.endswith("running_var") and entry.path[0] == "batch_stats":
            state[entry.name.replace("running_var", COUNTER)] = np.array(0, np.int64)
    if presets.is_of_caffe(config):  # The gains are for pixels with a deviation of about 1.
        state[torchvision.STEM] *= np.float32(np.mean(config.image_std) / DEVIATION)
    return state


def _gains(config: ModelConfig) -> dict[str, float]:
    if config.box_head.res5:
        return GAINS | OF_MEANS
    if config.fpn is None:
        return GAINS | OF_C5
    if isinstance(config.backbone, ConvNeXtConfig):
        return GAINS | OF_CONVNEXT
    return GAINS | OF_GROUP_NORM if config.fpn.norm == "group" else GAINS


def _background_logit(config: ModelConfig) -> float:
    largest = np.sqrt(2 * np.log(config.num_classes))
    return BACKGROUND_GAIN[config.box_head.num_convs > 0] * largest


def _norm_gain(name: str, config: ModelConfig) -> float:
    """The gain of a norm. The last norm of a block is small, to bound the sum over a stage.

    Rounding grows from block to block as the sum does. It grows most with group norm: on one
    photograph, with a gain of 0.5, Detectron2 in float32 pairs only 96 of 100 detections with
    Detectron2 in float64.
    """
    depth, norm = getattr(config.backbone, "depth", 50), getattr(config.backbone, "norm", "none")
    last = ".bn3." if depth >= 50 else ".bn2."
    small = 0.25 if depth > 50 or norm == "group" else 0.5
    return small if last in name else 1.0


def _weight(
    random: np.random.Generator, name: str, shape: tuple[int, ...], factor: float
) -> np.ndarray:
    """Draws a kernel by He's rule times a factor, with zero mean over the inputs.

    The inputs are positive after a ReLU, so a non-zero mean would dominate the outputs.
    """
    inputs = 0 if "conv5_mask" in name else tuple(range(1, len(shape)))
    weight = random.normal(size=shape)
    weight -= weight.mean(axis=inputs, keepdims=True)
    fan_in = shape[0] if "conv5_mask" in name else np.prod(shape[1:])
    gain = 1.0 if "fpn" in name or "downsample" in name else 2.0
    return weight * factor * np.sqrt(gain / fan_in)
