"""The names of torchvision's ConvNeXts, for classification and in detectors."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig
from maskrcnn_jax.modules.convnext import channels
from maskrcnn_jax.weights.layout import Entry, Path, entry
from maskrcnn_jax.weights.pytorch_layers import convolution, linear, normalisation

FEATURES = "features."  # Before all names of a classifier, but for its last layers.
CLASSIFIER = "classifier."
# Channels of C2 and blocks by torchvision's names.
SIZES = {
    "convnext_tiny": (96, (3, 3, 9, 3)),
    "convnext_small": (96, (3, 3, 27, 3)),
    "convnext_base": (128, (3, 3, 27, 3)),
    "convnext_large": (192, (3, 3, 27, 3)),
}


def architecture(config: ConvNeXtConfig) -> str:
    """Returns torchvision's name of a ConvNeXt, such as ``convnext_tiny``."""
    sizes = config.width, tuple(config.depths)
    names = {sizes: name for name, sizes in SIZES.items()}
    return names.get(sizes, f"convnext of {config.width} channels, {config.depths} blocks")


def recognises(names: Iterable[str], prefix: str) -> bool:
    """Tells whether names are those of a ConvNeXt after a prefix."""
    return any(name.startswith(f"{prefix}1.0.block.0.") for name in names)


def set_sizes(config: ConvNeXtConfig, state: Mapping[str, np.ndarray], prefix: str) -> None:
    """Sets the sizes of a config to those of the arrays of a file."""
    stem = state.get(f"{prefix}0.0.weight")
    if stem is not None and stem.ndim == 4:
        config.width = max(len(stem), 1)
    stages: list[set[str]] = [set(), set(), set(), set()]
    for name in state:
        parts = name.removeprefix(prefix).split(".")
        if name.startswith(prefix) and parts[0] in "1357" and len(parts) > 2:
            stages[int(parts[0]) // 2].add(parts[1])
    config.depths = tuple(min(max(len(blocks), 1), 100) for blocks in stages)


def backbone_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a classifier without its last layers, by names without a prefix."""
    kept = {x: array for x, array in arrays.items() if not x.startswith(CLASSIFIER)}
    return {x.removeprefix(FEATURES): np.asarray(array) for x, array in kept.items()}


def entries(config: ModelConfig, prefix: str = "") -> Iterator[Entry]:
    """Yields the table of the backbone, in torchvision's order of modules."""
    c, path, widths = config.backbone, ("backbone",), channels(config.backbone)
    stem = (*path, "stem_conv"), c.width, len(config.image_mean), 4
    yield from convolution(f"{prefix}0.0", *stem)
    yield from normalisation(f"{prefix}0.1", (*path, "stem_norm"), c.width, "layer")
    for level, num_blocks in enumerate(c.depths, start=2):
        number = 2 * level - 3
        if level > 2:
            name, layer = f"{prefix}{number - 1}", f"downsample{level}"
            finer = widths[level - 1]
            yield from normalisation(f"{name}.0", (*path, f"{layer}_norm"), finer, "layer")
            conv = (*path, f"{layer}_conv"), widths[level], finer, 2
            yield from convolution(f"{name}.1", *conv)
        for i in range(num_blocks):
            block = (*path, f"stage{level}_{i}")
            yield from _block(f"{prefix}{number}.{i}", block, widths[level])


def _block(name: str, path: Path, width: int) -> Iterator[Entry]:
    scale = "params", *path, "scale"
    shape = width, 1, 1
    yield entry(f"{name}.layer_scale", scale, shape, (0, 1, 2))._replace(target=(width,))
    yield from convolution(f"{name}.block.0", (*path, "conv"), width, 1, 7)
    yield from normalisation(f"{name}.block.2", (*path, "norm"), width, "layer")
    yield from linear(f"{name}.block.3", (*path, "fc1"), 4 * width, (width,))
    yield from linear(f"{name}.block.5", (*path, "fc2"), width, (4 * width,))
