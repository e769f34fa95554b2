"""The names and layouts of torchvision's Mask R-CNN weights, and ours.

Covers `maskrcnn_resnet50_fpn` with frozen or trained batch norm, `maskrcnn_resnet50_fpn_v2`, and their siblings of
other ResNet depths. Neither direction needs PyTorch: weights are NumPy arrays by name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.modules.resnet import DEPTHS

Shape = tuple[int, ...]
Path = tuple[str, ...]

# torchvision's name, our collection if the norm is trained, our name; a frozen norm keeps all in one collection.
BATCH_NORM = (
    ("weight", "params", "scale"),
    ("bias", "params", "bias"),
    ("running_mean", "batch_stats", "mean"),
    ("running_var", "batch_stats", "var"),
)
COUNTER = "num_batches_tracked"  # PyTorch counts the batches of a trained norm, and uses the count for nothing.


class Entry(NamedTuple):
    """One array: its torchvision name, where we keep it, and how its axes move.

    Ours is ``array.reshape(view).transpose(axes).reshape(target)``. The view differs from the shape only where a linear
    layer reads a flattened feature map, channels first there and last here.
    """

    name: str
    path: Path  # Collection, modules, parameter.
    shape: Shape
    view: Shape
    axes: Shape
    target: Shape


def from_state_dict(state: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, Any]:
    """Variables of `MaskRCNN(config)`, float32 NumPy arrays, from torchvision's state dict.

    Raises:
        ValueError: The configuration has no torchvision counterpart, or names are missing, unexpected or of the wrong
            shape; the message lists all of them.
    """
    table = list(entries(config))
    arrays = without_counters(state)
    _refuse(misfits(arrays, {entry.name: entry.shape for entry in table}))
    return arrange(arrays, table)


def without_counters(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict but for the counts of batches."""
    return {name: np.asarray(array) for name, array in state.items() if not name.endswith(f".{COUNTER}")}


def arrange(arrays: Mapping[str, np.ndarray], table: Iterable[Entry]) -> dict[str, Any]:
    """The arrays of a table, which have the shapes it says, as nested variables in float32."""
    variables: dict[str, Any] = {}
    for entry in table:
        array = arrays[entry.name].reshape(entry.view).transpose(entry.axes).reshape(entry.target)
        *parents, leaf = entry.path
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.ascontiguousarray(array, np.float32)
    return variables


def present_names(names: Iterable[str]) -> dict[str, str]:
    """What torchvision calls an array now, by the name it has in a file, where the two differ.

    Files from before its convolutions became blocks, the released one of `maskrcnn_resnet50_fpn` among them, name the
    convolution itself. torchvision renames them as it loads.
    """
    renamed = {}
    for name in names:
        if match := re.fullmatch(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", name):
            renamed[name] = f"{match[1]}.0.{match[2]}"
        elif match := re.fullmatch(r"rpn\.head\.conv\.(weight|bias)", name):
            renamed[name] = f"rpn.head.conv.0.0.{match[1]}"
        elif match := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn([1-9])\.(weight|bias)", name):
            renamed[name] = f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    return renamed


def to_state_dict(variables: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """torchvision's state dict from the variables of `MaskRCNN(config)`: the inverse of `from_state_dict`.

    Raises:
        ValueError: As `from_state_dict`, with our own names.
    """
    table = list(entries(config))
    arrays = {"/".join(path): np.asarray(array) for path, array in _leaves(variables)}
    _refuse(misfits(arrays, {"/".join(entry.path): entry.target for entry in table}))
    state = {}
    for entry in table:
        permuted = tuple(entry.view[axis] for axis in entry.axes)
        array = arrays["/".join(entry.path)].reshape(permuted).transpose(np.argsort(entry.axes)).reshape(entry.shape)
        state[entry.name] = np.ascontiguousarray(array, np.float32)
        if entry.path[0] == "batch_stats" and entry.path[-1] == "var":
            state[entry.name.replace("running_var", COUNTER)] = np.array(0, np.int64)
    return state


def entries(config: ModelConfig) -> Iterator[Entry]:
    """The whole table, in torchvision's order of modules.

    Raises:
        ValueError: The configuration has a norm that torchvision's models lack.
    """
    allowed = {"norm": ("frozen_batch", "batch")}
    allowed |= dict.fromkeys(("fpn_norm", "box_head_norm", "mask_head_norm"), ("none", "batch"))
    for field, values in allowed.items():
        if getattr(config, field) not in values:
            raise ValueError(f"torchvision has no model with {field}={getattr(config, field)!r}, only {values}")
    yield from _backbone(config)
    yield from _fpn(config)
    yield from _rpn_head(config)
    yield from _box_head(config)
    yield from _mask_head(config)


def backbone_entries(config: ModelConfig, prefix: str = "") -> Iterator[Entry]:
    """The part of the table that torchvision's ResNets for classification share, by their own names."""
    name, path, width = f"{prefix}conv1", ("backbone",), config.stem_channels
    yield from _convolution(name, (*path, "conv1"), width, 3, 7, bias=False)
    yield from _batch_norm(f"{prefix}bn1", (*path, "bn1"), width, config.norm)
    sizes, bottleneck = DEPTHS[config.depth]
    channels = width
    for stage, num_blocks in enumerate(sizes, start=1):
        width = config.stem_channels * 2 ** (stage - 1)
        outer = 4 * width if bottleneck else width
        for i in range(num_blocks):
            name, path = f"{prefix}layer{stage}.{i}", ("backbone", f"layer{stage}_{i}")
            yield from _block(name, path, channels, width, bottleneck, config.norm)
            if channels != outer:
                shortcut = (*path, "downsample_conv"), outer, channels, 1
                yield from _convolution(f"{name}.downsample.0", *shortcut, bias=False)
                yield from _batch_norm(f"{name}.downsample.1", (*path, "downsample_bn"), outer, config.norm)
            channels = outer


def _backbone(config: ModelConfig) -> Iterator[Entry]:
    yield from backbone_entries(config, "backbone.body.")


def _block(name: str, path: Path, channels: int, width: int, bottleneck: bool, norm: str) -> Iterator[Entry]:
    """The convolutions of a residual block, each with its norm: 1x1, 3x3, 1x1, or 3x3 twice."""
    if bottleneck:
        layers = [(width, channels, 1), (width, width, 3), (4 * width, width, 1)]
    else:
        layers = [(width, channels, 3), (width, width, 3)]
    for i, (outputs, inputs, side) in enumerate(layers, start=1):
        yield from _convolution(f"{name}.conv{i}", (*path, f"conv{i}"), outputs, inputs, side, bias=False)
        yield from _batch_norm(f"{name}.bn{i}", (*path, f"bn{i}"), outputs, norm)


def _fpn(config: ModelConfig) -> Iterator[Entry]:
    width, norm = config.fpn_channels, config.fpn_norm
    expansion = 4 if DEPTHS[config.depth][1] else 1
    for i in range(4):
        name, inputs = f"backbone.fpn.inner_blocks.{i}", expansion * config.stem_channels * 2**i
        yield from _normed(name, ("fpn",), f"lateral{i + 2}", f"lateral{i + 2}_bn", width, inputs, 1, norm)
    for i in range(4):
        name = f"backbone.fpn.layer_blocks.{i}"
        yield from _normed(name, ("fpn",), f"output{i + 2}", f"output{i + 2}_bn", width, width, 3, norm)


def _rpn_head(config: ModelConfig) -> Iterator[Entry]:
    width, num_anchors = config.fpn_channels, len(config.rpn.aspect_ratios)
    for i in range(config.rpn_head_convs):
        yield from _convolution(f"rpn.head.conv.{i}.0", ("rpn_head", f"conv{i}"), width, width, 3)
    yield from _convolution("rpn.head.cls_logits", ("rpn_head", "cls_logits"), num_anchors, width, 1)
    yield from _convolution("rpn.head.bbox_pred", ("rpn_head", "bbox_pred"), 4 * num_anchors, width, 1)


def _box_head(config: ModelConfig) -> Iterator[Entry]:
    """Fully connected layers are fc6, fc7 where there are no convolutions; else they are counted on after them."""
    head, predictor, path = "roi_heads.box_head", "roi_heads.box_predictor", ("box_head",)
    inputs = config.fpn_channels
    for i in range(config.box_head_convs):
        width = config.box_head_channels
        yield from _normed(f"{head}.{i}", path, f"conv{i}", f"bn{i}", width, inputs, 3, config.box_head_norm)
        inputs = width
    shape, hidden = (inputs, config.roi.box_resolution, config.roi.box_resolution), config.box_head_features
    for i in range(config.box_head_layers):
        # After the convolutions come a layer that flattens, and an activation after each linear layer.
        name = f"{head}.{config.box_head_convs + 1 + 2 * i}" if config.box_head_convs else f"{head}.fc{6 + i}"
        yield from _linear(name, (*path, f"fc{6 + i}"), hidden, shape)
        shape = (hidden,)
    yield from _linear(f"{predictor}.cls_score", (*path, "cls_score"), config.num_classes, shape)
    yield from _linear(f"{predictor}.bbox_pred", (*path, "bbox_pred"), 4 * config.num_classes, shape)


def _mask_head(config: ModelConfig) -> Iterator[Entry]:
    inputs, width, path = config.fpn_channels, config.mask_head_channels, ("mask_head",)
    for i in range(config.mask_head_convs):
        name = f"roi_heads.mask_head.{i}"
        yield from _normed(name, path, f"conv{i}", f"bn{i}", width, inputs, 3, config.mask_head_norm)
        inputs = width
    predictor, deconv = "roi_heads.mask_predictor", ("params", *path, "deconv")
    # A transposed convolution keeps its inputs first.
    yield _entry(f"{predictor}.conv5_mask.weight", (*deconv, "kernel"), (inputs, width, 2, 2), (2, 3, 0, 1))
    yield _entry(f"{predictor}.conv5_mask.bias", (*deconv, "bias"), (width,), (0,))
    yield from _convolution(f"{predictor}.mask_fcn_logits", (*path, "logits"), config.num_classes, width, 1)


def _normed(
    name: str, parent: Path, conv: str, bn: str, outputs: int, inputs: int, side: int, norm: str
) -> Iterator[Entry]:
    """A convolution with a bias, or one without and the norm behind it."""
    yield from _convolution(f"{name}.0", (*parent, conv), outputs, inputs, side, bias=norm == "none")
    if norm != "none":
        yield from _batch_norm(f"{name}.1", (*parent, bn), outputs, norm)


def _convolution(name: str, path: Path, outputs: int, inputs: int, side: int, *, bias: bool = True) -> Iterator[Entry]:
    yield _entry(f"{name}.weight", ("params", *path, "kernel"), (outputs, inputs, side, side), (2, 3, 1, 0))
    if bias:
        yield _entry(f"{name}.bias", ("params", *path, "bias"), (outputs,), (0,))


def _linear(name: str, path: Path, outputs: int, inputs: Shape) -> Iterator[Entry]:
    """A linear layer over features, or over a feature map of shape (channels, height, width)."""
    view = (outputs, *inputs)
    axes = (2, 3, 1, 0) if len(inputs) == 3 else (1, 0)
    flat = int(np.prod(inputs))
    yield Entry(f"{name}.weight", ("params", *path, "kernel"), (outputs, flat), view, axes, (flat, outputs))
    yield _entry(f"{name}.bias", ("params", *path, "bias"), (outputs,), (0,))


def _batch_norm(name: str, path: Path, channels: int, norm: str) -> Iterator[Entry]:
    for theirs, collection, ours in BATCH_NORM:
        collection = collection if norm == "batch" else "constants"
        yield _entry(f"{name}.{theirs}", (collection, *path, ours), (channels,), (0,))


def _entry(name: str, path: Path, shape: Shape, axes: Shape) -> Entry:
    return Entry(name, path, shape, shape, axes, tuple(shape[axis] for axis in axes))


def _leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterable[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def misfits(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> list[str]:
    """Everything in which arrays differ from the names and shapes they should have, in words."""
    problems = [f"missing {name}" for name in shapes if name not in arrays]
    problems += [f"unexpected {name}" for name in arrays if name not in shapes]
    problems += [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    return problems


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("the weights do not fit the model:\n  " + "\n  ".join(problems))
