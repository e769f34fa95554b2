"""The names of plain vision transformers: in Detectron2's ViTDet, and in MAE's weights."""

from collections.abc import Iterator, Mapping

import numpy as np

from maskrcnn_jax.model_config import ModelConfig, ViTConfig
from maskrcnn_jax.modules.vit import PATCH, POSITIONS
from maskrcnn_jax.weights.layout import Entry, Path, entry
from maskrcnn_jax.weights.pytorch_layers import (
    convolution,
    linear,
    normalisation,
    transposed_convolution,
)

NET = "backbone.net."
# The arrays of MAE's encoder that no map of features depends on.
UNUSED = ("cls_token", "norm.weight", "norm.bias")
# The first convolution of a level of the simple feature pyramid, in the numbering of its layers.
LATERALS = {2: 4, 3: 1, 4: 0, 5: 1}


def entries(config: ModelConfig) -> Iterator[Entry]:
    """Yields the table of the backbone, by Detectron2's names."""
    c, path = config.backbone, ("backbone",)
    positions = (1, POSITIONS**2 + 1, c.width)
    yield entry(f"{NET}pos_embed", ("params", *path, "pos_embed"), positions, (0, 1, 2))
    patches = (*path, "patch_embed"), c.width, len(config.image_mean), PATCH
    yield from convolution(f"{NET}patch_embed.proj", *patches)
    for i in range(c.depth):
        yield from _block(f"{NET}blocks.{i}", (*path, f"blocks_{i}"), c, i in c.global_blocks)
    first = (*path, "simfp_2_0"), c.width, c.width // 2, 2
    yield from transposed_convolution("backbone.simfp_2.0", *first)
    yield from normalisation("backbone.simfp_2.1", (*path, "simfp_2_1"), c.width // 2, "layer")
    second = (*path, "simfp_2_3"), c.width // 2, c.width // 4, 2
    yield from transposed_convolution("backbone.simfp_2.3", *second)
    coarser = (*path, "simfp_3_0"), c.width, c.width // 2, 2
    yield from transposed_convolution("backbone.simfp_3.0", *coarser)


def _block(name: str, path: Path, config: ViTConfig, is_global: bool) -> Iterator[Entry]:
    width = config.width
    side = config.image_side // PATCH if is_global else config.window
    yield from normalisation(f"{name}.norm1", (*path, "norm1"), width, "layer")
    for axis in "hw":
        shape = 2 * side - 1, width // config.num_heads
        table = f"rel_pos_{axis}"
        yield entry(f"{name}.attn.{table}", ("params", *path, "attn", table), shape, (0, 1))
    yield from linear(f"{name}.attn.qkv", (*path, "attn", "qkv"), 3 * width, (width,))
    yield from linear(f"{name}.attn.proj", (*path, "attn", "proj"), width, (width,))
    yield from normalisation(f"{name}.norm2", (*path, "norm2"), width, "layer")
    yield from linear(f"{name}.mlp.fc1", (*path, "fc1"), 4 * width, (width,))
    yield from linear(f"{name}.mlp.fc2", (*path, "fc2"), width, (4 * width,))


def name(path: Path) -> str:
    """Returns Detectron2's name of a layer of the backbone by its path among our modules."""
    if len(path) == 1:
        return NET.removesuffix(".")  # Of the positions.
    layer = path[1]
    if layer == "patch_embed":
        return f"{NET}patch_embed.proj"
    if layer.startswith("simfp"):
        part, level, number = layer.split("_")
        return f"backbone.{part}_{level}.{number}"
    block = f"{NET}blocks.{layer.removeprefix('blocks_')}"
    rest = ".".join(path[2:])  # Relative positions are arrays of "attn" itself.
    return f"{block}.mlp.{rest}" if rest.startswith("fc") else f"{block}.{rest}"


def pyramid_name(layer: str) -> str:
    """Returns Detectron2's name of a layer of the simple feature pyramid."""
    conv = layer.removesuffix("_bn")
    level = int(conv[-1])
    number = LATERALS[level] + conv.startswith("output")
    return f"backbone.simfp_{level}.{number}" + (".norm" if layer.endswith("_bn") else "")


def is_mae(names: Mapping[str, np.ndarray]) -> bool:
    """Tells whether a file has the names of MAE's encoder, or of timm's vision transformers."""
    return {"pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= set(names)


def is_pretrained(name: str) -> bool:
    """Tells whether MAE's encoder has the array of a name of Detectron2."""
    return name.startswith(NET) and "rel_pos" not in name


def described(arrays: Mapping[str, np.ndarray]) -> str:
    """Names the backbone of a file, by its arrays; none tells the number of heads."""
    if not is_mae(arrays):
        return "no vision transformer with MAE's names"
    depth = len({x.split(".")[1] for x in arrays if x.startswith("blocks.")})
    return describe(ViTConfig(width=arrays["pos_embed"].shape[-1], depth=depth))


def advice(found: str) -> str:
    """Says which preset has a backbone."""
    presets = {"ViT-B": "detectron2_vitdet_b", "ViT-L": "detectron2_vitdet_l"}
    if found in presets:
        return f"presets.{presets[found]} has it"
    return "give MAE's weights of that backbone"


def set_sizes(config: ViTConfig, state: Mapping[str, np.ndarray]) -> None:
    """Sets the sizes of a config to those of the arrays of a file of Detectron2.

    Raises:
        ValueError: An array that tells a size is missing.
    """
    try:
        blocks = {int(x.split(".")[3]) for x in state if x.startswith(f"{NET}blocks.")}
        config.depth = max(blocks) + 1
        tables = [state[f"{NET}blocks.{i}.attn.rel_pos_h"].shape for i in range(config.depth)]
        config.width = state[f"{NET}pos_embed"].shape[2]
        config.num_heads = config.width // tables[0][1]
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        text = f"its vision transformer lacks an array or has other shapes: {error}"
        raise ValueError(text) from error
    sides = [(length + 1) // 2 for length, _ in tables]
    config.window, largest = min(sides), max(sides)
    config.image_side = PATCH * largest
    config.global_blocks = tuple(i for i, side in enumerate(sides) if side == largest)


def from_mae(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of MAE's encoder by Detectron2's names."""
    kept = {x: array for x, array in arrays.items() if x not in UNUSED}
    return {NET + x: array for x, array in kept.items() if not x.startswith(("decoder", "head"))}


def describe(config: ViTConfig) -> str:
    """Names a backbone, such as ``ViT-B``."""
    names = {(768, 12): "ViT-B", (1024, 24): "ViT-L", (1280, 32): "ViT-H"}
    sizes = config.width, config.depth
    return names.get(sizes, f"ViT of {config.depth} blocks with {config.width} channels")
