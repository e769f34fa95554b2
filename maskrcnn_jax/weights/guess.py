"""Guesses the facts that a weight file lacks: the scale of the input, the anchors.

A state dict holds no pixel statistics, no order of channels and no strides. Each family has presets
for its networks; the functions here find the evidence for one of them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import CascadeConfig, ModelConfig, ResNetConfig
from maskrcnn_jax.roi_heads.composition import module_paths
from maskrcnn_jax.weights import torchvision_resnet
from maskrcnn_jax.weights.layout import Path

# A network whose input has a deviation of about 1 has a ratio near 1 in its stem, one that was
# trained on pixels from 0 to 255 a ratio in the thousands.
NORMALISED_BELOW = 50


class Guess(NamedTuple):
    """The network of a file, as far as it can be known."""

    config: Config  # Model, detection and the sizes of test images.
    categories: Categories | None  # None if unknown.
    is_bgr: bool = False  # The order of the channels that the stem reads; ours is RGB.
    reasons: tuple[str, ...] = ()  # Lines for the report: what was assumed, and why.


def input_ratio(kernel: np.ndarray | None, variance: np.ndarray | None) -> float | None:
    """Returns the median over channels of a norm's variance and the sum of its squared weights.

    The quotient is about the variance of the input of the convolution. None without a running
    variance, as with group norm.

    Args:
        kernel: The convolution before the norm, one row for each channel.
        variance: The running variance of the norm.
    """
    if kernel is None or variance is None or variance.shape != kernel.shape[:1]:
        return None
    squares = np.square(kernel.astype(np.float64)).reshape(len(kernel), -1).sum(axis=1)
    return float(np.median(variance[squares > 0] / squares[squares > 0])) if squares.any() else None


def anchors(cells: Mapping[int, np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Returns anchor sizes, aspect ratios, and whether the anchors are rounded.

    Args:
        cells: The anchors of one cell by level, each ``[a, 4]``.

    Raises:
        ValueError: The levels have other shapes, or anchors without an area.
    """
    sizes, ratios = [], []
    for level in sorted(cells):
        cell = cells[level].astype(np.float64)
        if cell.ndim != 2 or cell.shape[1] != 4 or not (cell[:, 2:] > cell[:, :2]).all():
            raise ValueError(f"its anchors of level {level} are no boxes")
        width, height = (cell[:, 2:] - cell[:, :2]).T
        sizes.append(float(np.round(np.sqrt(width * height).mean(), 3)))
        ratios.append(tuple(float(np.round(x, 3)) for x in height / width))
    if len(set(ratios)) != 1:
        raise ValueError("its anchors have other aspect ratios on each level")
    is_rounded = all((cell == np.round(cell)).all() for cell in cells.values())
    return tuple(sizes), ratios[0], is_rounded and len(ratios[0]) > 1


def resnet_depth(names: Iterable[str], pattern: str) -> int:
    """Infers the depth of a ResNet; see `torchvision_resnet.matched_depth`.

    Raises:
        ValueError: The blocks are those of no ResNet.
    """
    depth = torchvision_resnet.matched_depth(names, pattern)
    if depth is None:
        raise ValueError("its backbone is no ResNet of 18, 34, 50, 101 or 152 layers")
    return depth


def set_groups(backbone: ResNetConfig, first: np.ndarray | None, second: np.ndarray | None) -> None:
    """Sets the groups of the 3x3 convolutions from the first two kernels of the first block."""
    if first is None or second is None or first.ndim != 4 or second.ndim != 4:
        return  # Named later as missing.
    inputs, stem_channels = max(second.shape[1], 1), max(first.shape[1], 1)
    backbone.groups = max(len(first) // inputs, 1)
    backbone.width_per_group = max(64 * inputs // stem_channels, 1)


def num_stages(names: Iterable[str], pattern: str) -> int:
    """Returns the number of stages of a box head; 0 unless it is a cascade.

    Args:
        names: Names of arrays.
        pattern: Matches the start of a name in a stage, with the number of the stage as its group.

    Raises:
        ValueError: The cascade has another number of stages than three, so that its rules are
            unknown.
    """
    count = 1 + max((int(m[1]) for x in names if (m := re.match(pattern, x))), default=-1)
    if count not in (0, CascadeConfig().num_stages):
        raise ValueError(f"it is a Cascade R-CNN, but not of 3 stages: the last is {count - 1}")
    return count


def set_widths(
    config: ModelConfig,
    state: Mapping[str, np.ndarray],
    name: Callable[[Path, ModelConfig], str],
) -> None:
    """Sets the numbers of channels in a config to those of the arrays of a file.

    ``name`` gives the names of layers by their paths; the numbers of layers must be set.
    """

    def set_size(part: Any, field: str, path: Path, axis: int) -> None:
        weight = state.get(f"{name(path, config)}.weight")
        if weight is not None and weight.ndim > axis and weight.shape[axis] > 0:
            setattr(part, field, weight.shape[axis])

    if isinstance(config.backbone, ResNetConfig):
        set_size(config.backbone, "stem_channels", ("backbone", "conv1"), 0)
    if config.fpn is not None:
        set_size(config.fpn, "channels", ("rpn", "cls_logits"), 1)
    first = {part: paths[0] for part, paths in module_paths(config).items()}
    if config.box_head.num_convs:
        set_size(config.box_head, "channels", (*first["box_head"], "conv0"), 0)
    if config.box_head.num_layers:
        set_size(config.box_head, "features", (*first["box_head"], "cls_score"), 1)
    if config.mask_head is not None:
        set_size(config.mask_head, "channels", (*first["mask_head"], "logits"), 1)


def set_class_agnostic(
    config: ModelConfig,
    state: Mapping[str, np.ndarray],
    name: Callable[[Path, ModelConfig], str],
) -> None:
    """Sets whether a file has one box, and one mask, for all classes; arguments as `set_widths`.

    The files have no rows of background, so for a single class both forms are the same.

    Raises:
        ValueError: The stages of a cascade have a box for each class.
    """
    first = {part: paths[0] for part, paths in module_paths(config).items()}

    def is_one(path: Path, rows: int) -> bool:
        bias = state.get(f"{name(path, config)}.bias")
        return bias is not None and bias.size == rows < rows * (config.num_classes - 1)

    config.box_head.class_agnostic = is_one((*first["box_head"], "bbox_pred"), 4)
    if config.mask_head is not None:
        config.mask_head.class_agnostic = is_one((*first["mask_head"], "logits"), 1)
    if config.cascade is not None and config.num_classes > 2:
        if not config.box_head.class_agnostic:
            raise ValueError(
                "it is a Cascade R-CNN with a box for each class, and only those with one box for "
                "all classes are loaded"
            )
    config.box_head.class_agnostic |= config.cascade is not None
