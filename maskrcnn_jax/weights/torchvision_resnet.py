"""The names of torchvision's ResNets for classification, and of the same backbones in detectors."""

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.modules.resnet import DEPTHS
from maskrcnn_jax.weights.layout import Entry, Path
from maskrcnn_jax.weights.pytorch_layers import convolution, normalisation

CLASSIFIER = "fc."
COUNTER = "num_batches_tracked"  # The batch counter of a trained norm; PyTorch never reads it.


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
    width, norm = backbone.stem_channels, backbone.norm
    stem = ("backbone", "conv1"), width, len(config.image_mean), 7
    yield from convolution(f"{prefix}conv1", *stem, bias=False)
    yield from normalisation(f"{prefix}bn1", ("backbone", "bn1"), width, norm)
    sizes, bottleneck = DEPTHS[backbone.depth]
    channels = width
    for stage, num_blocks in enumerate(sizes, start=1):
        width = backbone.stem_channels * 2 ** (stage - 1)
        outputs = 4 * width if bottleneck else width
        for i in range(num_blocks):
            name, path = f"{prefix}layer{stage}.{i}", ("backbone", f"layer{stage}_{i}")
            yield from _block(name, path, channels, width, bottleneck, norm)
            if channels != outputs:
                conv = (*path, "downsample_conv"), outputs, channels, 1
                yield from convolution(f"{name}.downsample.0", *conv, bias=False)
                bn = (*path, "downsample_bn")
                yield from normalisation(f"{name}.downsample.1", bn, outputs, norm)
            channels = outputs


def _block(
    name: str, path: Path, channels: int, width: int, bottleneck: bool, norm: str
) -> Iterator[Entry]:
    """Yields a residual block without its shortcut: convolutions 1x1, 3x3, 1x1, or 3x3 twice.

    Each convolution has a norm.
    """
    if bottleneck:
        layers = [(width, channels, 1), (width, width, 3), (4 * width, width, 1)]
    else:
        layers = [(width, channels, 3), (width, width, 3)]
    for i, (outputs, inputs, side) in enumerate(layers, start=1):
        conv = (*path, f"conv{i}"), outputs, inputs, side
        yield from convolution(f"{name}.conv{i}", *conv, bias=False)
        yield from normalisation(f"{name}.bn{i}", (*path, f"bn{i}"), outputs, norm)
