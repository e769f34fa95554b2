"""The names of torchvision's ResNets for classification, and of the same backbones in detectors."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.modules import resnet
from maskrcnn_jax.modules.resnet import DEPTHS
from maskrcnn_jax.weights.layout import Entry, Path
from maskrcnn_jax.weights.pytorch_layers import convolution, normalisation

CLASSIFIER = "fc."
COUNTER = "num_batches_tracked"  # The batch counter of a trained norm; PyTorch never reads it.


def architecture(backbone: ResNetConfig) -> str:
    """Returns torchvision's name of a ResNet or ResNeXt, such as ``resnext50_32x4d``."""
    if (backbone.groups, backbone.width_per_group) == (1, 64):
        return f"resnet{backbone.depth}"
    if backbone.groups == 1:
        return f"wide_resnet{backbone.depth}_{backbone.width_per_group // 64}"
    return f"resnext{backbone.depth}_{backbone.groups}x{backbone.width_per_group}d"


def present(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of the backbone, without the classifier and the batch counters."""
    arrays = without_counters(state)
    return {name: x for name, x in arrays.items() if not name.startswith(CLASSIFIER)}


def without_counters(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops the batch counters of a state dict."""
    kept = (name for name in state if not name.endswith(f".{COUNTER}"))
    return {name: np.asarray(state[name]) for name in kept}


def resnet_depth(names: Iterable[str], prefix: str = "") -> int | None:
    """Infers the depth of a ResNet from its blocks; None if it is not a known ResNet.

    The names of the backbone begin with ``prefix``.
    """
    return matched_depth(names, rf"{re.escape(prefix)}layer([1-4])\.(\d{{1,3}})\.(conv3\.)?")


def matched_depth(names: Iterable[str], pattern: str) -> int | None:
    """Infers the depth as `resnet_depth` does, from names of any family.

    The pattern has groups for the number of a stage, of which the highest is the last, for the
    number of a block, and for the third convolution.
    """
    blocks, has_bottlenecks = [0, 0, 0, 0], False
    last = 5 if "[2-5]" in pattern else 4
    for name in names:
        if match := re.match(pattern, name):
            stage, block = int(match[1]) - last + 3, int(match[2])
            blocks[stage] = max(blocks[stage], block + 1)
            has_bottlenecks |= match[3] is not None
    found = tuple(blocks), has_bottlenecks
    return next((depth for depth, blocks in DEPTHS.items() if blocks == found), None)


def entries(config: ModelConfig, prefix: str = "") -> Iterator[Entry]:
    """Yields the table of the backbone, in torchvision's order of modules."""
    backbone = config.backbone
    channels, norm = backbone.stem_channels, backbone.norm
    stem = ("backbone", "conv1"), channels, len(config.image_mean), 7
    yield from convolution(f"{prefix}conv1", *stem, bias=False)
    yield from normalisation(f"{prefix}bn1", ("backbone", "bn1"), channels, norm)
    for level in range(2, backbone.last_level + 1):
        name = f"{prefix}layer{level - 1}"
        yield from stage(backbone, level, name, ("backbone",))


def stage(backbone: ResNetConfig, level: int, prefix: str, parent: Path) -> Iterator[Entry]:
    """Yields the table of the stage that computes a level.

    The names of its blocks are ``prefix`` and a number, and its modules are in ``parent``.
    """
    sizes, bottleneck = DEPTHS[backbone.depth]
    outputs, width = resnet.stage_channels(backbone)[level], backbone.width * 2 ** (level - 2)
    channels = backbone.stem_channels if level == 2 else resnet.stage_channels(backbone)[level - 1]
    for i in range(sizes[level - 2]):
        name, path = f"{prefix}.{i}", (*parent, f"layer{level - 1}_{i}")
        if bottleneck:
            inner = width // backbone.groups  # Channels that an output of the 3x3 reads.
            layers = [(width, channels, 1), (width, inner, 3), (outputs, width, 1)]
        else:
            layers = [(outputs, channels, 3), (outputs, outputs, 3)]
        yield from _block(name, path, layers, backbone.norm)
        if channels != outputs:
            conv = (*path, "downsample_conv"), outputs, channels, 1
            yield from convolution(f"{name}.downsample.0", *conv, bias=False)
            bn = (*path, "downsample_bn")
            yield from normalisation(f"{name}.downsample.1", bn, outputs, backbone.norm)
        channels = outputs


def _block(
    name: str, path: Path, layers: Sequence[tuple[int, int, int]], norm: str
) -> Iterator[Entry]:
    """Yields a residual block without its shortcut.

    Each convolution has a norm. ``layers`` are its numbers of outputs and inputs and its side.
    """
    for i, (outputs, inputs, side) in enumerate(layers, start=1):
        conv = (*path, f"conv{i}"), outputs, inputs, side
        yield from convolution(f"{name}.conv{i}", *conv, bias=False)
        yield from normalisation(f"{name}.bn{i}", (*path, f"bn{i}"), outputs, norm)
