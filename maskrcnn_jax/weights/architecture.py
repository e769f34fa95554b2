"""torchvision's models as configurations, and which of them a file holds: its names and shapes tell."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.modules.resnet import DEPTHS
from maskrcnn_jax.weights import torchvision

COCO_CLASSES = 91  # Columns of the released weights: background and the raw category ids 1 to 90.
BODY = "backbone.body."
NORM_WORDS = {"frozen_batch": "frozen batch norm", "batch": "batch norm", "group": "group norm"}


def v1(num_classes: int, norm: str = "frozen_batch") -> ModelConfig:
    """`maskrcnn_resnet50_fpn`, the network of the paper."""
    return ModelConfig(num_classes=num_classes, norm=norm)


def v2(num_classes: int) -> ModelConfig:
    """`maskrcnn_resnet50_fpn_v2`: trained batch norm everywhere, and heads with more convolutions."""
    return ModelConfig(
        num_classes=num_classes,
        norm="batch",
        fpn_norm="batch",
        rpn_head_convs=2,
        box_head_convs=4,
        box_head_norm="batch",
        box_head_layers=1,
        mask_head_norm="batch",
    )


BUILDERS = {"maskrcnn_resnet50_fpn": v1, "maskrcnn_resnet50_fpn_v2": v2}


def builder(config: ModelConfig) -> str | None:
    """The function of torchvision that builds a network of this structure, whatever its classes and norm; or None."""
    for name, build in BUILDERS.items():
        if not config.stride_in_1x1 and _shapes(build(config.num_classes)) == _shapes(config):
            return name
    return None


def describe(config: ModelConfig) -> str:
    """A network in one line."""
    name = builder(config)
    if name is None:
        heads = "the heads of maskrcnn_resnet50_fpn_v2" if config.box_head_convs else "the heads of the paper"
        name = f"Mask R-CNN with ResNet-{config.depth}-FPN and {heads}"
    return f"{name}, {NORM_WORDS.get(config.norm, config.norm)}, {config.num_classes} classes"


def infer(state: Mapping[str, np.ndarray]) -> ModelConfig:
    """The configuration of a state dict, under torchvision's present names; everything else is torchvision's default.

    Counters of batches mark a batch norm that trains. What is missing here and there does not matter: the table of
    names of the configuration will tell.

    Raises:
        ValueError: It is not a Mask R-CNN of torchvision's; the message says what it looks like.
    """
    depth = resnet_depth(state, BODY)
    if depth is None:
        raise ValueError(f"it is not a Mask R-CNN of torchvision's: {_guess(state)}")
    num_classes = len(state.get("roi_heads.box_predictor.cls_score.bias", np.zeros(COCO_CLASSES)).reshape(-1))
    if any(name.startswith("roi_heads.box_head.0.") for name in state):
        config = BUILDERS["maskrcnn_resnet50_fpn_v2"](num_classes)
        config.box_head_channels = _width(state, "roi_heads.box_head.1.0.weight", config.box_head_channels)
    else:
        counted = any(name.endswith(f".{torchvision.COUNTER}") for name in state)
        config = BUILDERS["maskrcnn_resnet50_fpn"](num_classes)
        config.norm = "batch" if counted else "frozen_batch"
    config.depth = depth
    if (stem := state.get(f"{BODY}bn1.weight")) is not None:
        config.stem_channels = stem.size
    config.fpn_channels = _width(state, "rpn.head.cls_logits.weight", config.fpn_channels)
    config.box_head_features = _width(state, "roi_heads.box_predictor.cls_score.weight", config.box_head_features)
    config.mask_head_channels = _width(
        state, "roi_heads.mask_predictor.mask_fcn_logits.weight", config.mask_head_channels
    )
    return config


def resnet_depth(names: Iterable[str], prefix: str) -> int | None:
    """The depth of the ResNet whose layers begin with a prefix, by its blocks; None if it is none that we have."""
    names = list(names)
    blocks = [0, 0, 0, 0]
    for name in names:
        if match := re.match(rf"{re.escape(prefix)}layer([1-4])\.(\d{{1,3}})\.", name):
            stage = int(match[1]) - 1
            blocks[stage] = max(blocks[stage], int(match[2]) + 1)
    bottleneck = any(re.match(rf"{re.escape(prefix)}layer[1-4]\.\d+\.conv3\.", name) for name in names)
    return next((depth for depth, found in DEPTHS.items() if found == (tuple(blocks), bottleneck)), None)


def _guess(state: Mapping[str, np.ndarray]) -> str:
    if depth := resnet_depth(state, ""):
        return f"it looks like a ResNet-{depth} for classification, which is for config.model.backbone_weights"
    names = ", ".join(name[:100] for name in list(state)[:3])
    return f"of its {len(state)} arrays the first are {names}" if state else "it holds no array"


def _width(state: Mapping[str, np.ndarray], name: str, default: int) -> int:
    """Input channels of a layer."""
    array = state.get(name)
    return default if array is None or array.ndim < 2 else array.shape[1]


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]] | None:
    """torchvision's names and shapes, or None if it has no such network."""
    try:
        return {entry.name: entry.shape for entry in torchvision.entries(config)}
    except ValueError:
        return None
