"""The names and layouts of torchvision's Mask R-CNN weights, and ours.

Covers `maskrcnn_resnet50_fpn` and its siblings of other ResNet depths, with frozen batch norm. Neither direction needs
PyTorch: weights are NumPy arrays by name.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.modules.resnet import DEPTHS

Shape = tuple[int, ...]
Path = tuple[str, ...]

BATCH_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


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
    arrays = {name: np.asarray(array) for name, array in state.items()}
    _check(arrays, {entry.name: entry.shape for entry in table})
    variables: dict[str, Any] = {}
    for entry in table:
        array = arrays[entry.name].reshape(entry.view).transpose(entry.axes).reshape(entry.target)
        *parents, leaf = entry.path
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.ascontiguousarray(array, np.float32)
    return variables


def to_state_dict(variables: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """torchvision's state dict from the variables of `MaskRCNN(config)`: the inverse of `from_state_dict`.

    Raises:
        ValueError: As `from_state_dict`, with our own names.
    """
    table = list(entries(config))
    arrays = {"/".join(path): np.asarray(array) for path, array in _leaves(variables)}
    _check(arrays, {"/".join(entry.path): entry.target for entry in table})
    state = {}
    for entry in table:
        permuted = tuple(entry.view[axis] for axis in entry.axes)
        array = arrays["/".join(entry.path)].reshape(permuted).transpose(np.argsort(entry.axes)).reshape(entry.shape)
        state[entry.name] = np.ascontiguousarray(array, np.float32)
    return state


def entries(config: ModelConfig) -> Iterator[Entry]:
    """The whole table, in torchvision's order of modules.

    Raises:
        ValueError: The configuration has a norm that torchvision's first version of the model lacks.
    """
    norms = config.norm, config.fpn_norm, config.mask_head_norm
    if norms != ("frozen_batch", "none", "none"):
        expected = "norm='frozen_batch', fpn_norm='none', mask_head_norm='none'"
        raise ValueError(f"torchvision's names are known for {expected}, got {norms}")
    yield from _backbone(config.depth)
    yield from _fpn(config)
    yield from _heads(config)


def _backbone(depth: int) -> Iterator[Entry]:
    body, ours = "backbone.body", ("backbone",)
    yield from _convolution(f"{body}.conv1", (*ours, "conv1"), 64, 3, 7, bias=False)
    yield from _batch_norm(f"{body}.bn1", (*ours, "bn1"), 64)
    sizes, bottleneck = DEPTHS[depth]
    channels = 64
    for stage, num_blocks in enumerate(sizes, start=1):
        width = 64 * 2 ** (stage - 1)
        for i in range(num_blocks):
            name, path = f"{body}.layer{stage}.{i}", (*ours, f"layer{stage}_{i}")
            outer = 4 * width if bottleneck else width
            yield from _block(name, path, channels, width, bottleneck)
            if channels != outer:
                yield from _convolution(
                    f"{name}.downsample.0", (*path, "downsample_conv"), outer, channels, 1, bias=False
                )
                yield from _batch_norm(f"{name}.downsample.1", (*path, "downsample_bn"), outer)
            channels = outer


def _block(name: str, path: Path, channels: int, width: int, bottleneck: bool) -> Iterator[Entry]:
    """The convolutions of a residual block, each with its norm: 1x1, 3x3, 1x1, or 3x3 twice."""
    if bottleneck:
        layers = [(width, channels, 1), (width, width, 3), (4 * width, width, 1)]
    else:
        layers = [(width, channels, 3), (width, width, 3)]
    for i, (outputs, inputs, side) in enumerate(layers, start=1):
        yield from _convolution(f"{name}.conv{i}", (*path, f"conv{i}"), outputs, inputs, side, bias=False)
        yield from _batch_norm(f"{name}.bn{i}", (*path, f"bn{i}"), outputs)


def _fpn(config: ModelConfig) -> Iterator[Entry]:
    width = config.fpn_channels
    expansion = 4 if DEPTHS[config.depth][1] else 1
    for i in range(4):
        inputs = expansion * 64 * 2**i
        yield from _convolution(f"backbone.fpn.inner_blocks.{i}.0", ("fpn", f"lateral{i + 2}"), width, inputs, 1)
    for i in range(4):
        yield from _convolution(f"backbone.fpn.layer_blocks.{i}.0", ("fpn", f"output{i + 2}"), width, width, 3)


def _heads(config: ModelConfig) -> Iterator[Entry]:
    width, num_classes, hidden = config.fpn_channels, config.num_classes, config.box_head_features
    num_anchors, side = len(config.rpn.aspect_ratios), config.roi.box_resolution
    yield from _convolution("rpn.head.conv.0.0", ("rpn_head", "conv"), width, width, 3)
    yield from _convolution("rpn.head.cls_logits", ("rpn_head", "cls_logits"), num_anchors, width, 1)
    yield from _convolution("rpn.head.bbox_pred", ("rpn_head", "bbox_pred"), 4 * num_anchors, width, 1)

    head, predictor = "roi_heads.box_head", "roi_heads.box_predictor"
    yield from _linear(f"{head}.fc6", ("box_head", "fc6"), hidden, (width, side, side))
    yield from _linear(f"{head}.fc7", ("box_head", "fc7"), hidden, (hidden,))
    yield from _linear(f"{predictor}.cls_score", ("box_head", "cls_score"), num_classes, (hidden,))
    yield from _linear(f"{predictor}.bbox_pred", ("box_head", "bbox_pred"), 4 * num_classes, (hidden,))

    inputs, width = width, config.mask_head_channels
    for i in range(config.mask_head_convs):
        yield from _convolution(f"roi_heads.mask_head.{i}.0", ("mask_head", f"conv{i}"), width, inputs, 3)
        inputs = width
    predictor = "roi_heads.mask_predictor"
    # A transposed convolution keeps its inputs first.
    deconv = ("params", "mask_head", "deconv")
    yield _entry(f"{predictor}.conv5_mask.weight", (*deconv, "kernel"), (inputs, width, 2, 2), (2, 3, 0, 1))
    yield _entry(f"{predictor}.conv5_mask.bias", (*deconv, "bias"), (width,), (0,))
    yield from _convolution(f"{predictor}.mask_fcn_logits", ("mask_head", "logits"), num_classes, width, 1)


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


def _batch_norm(name: str, path: Path, channels: int) -> Iterator[Entry]:
    for theirs, ours in BATCH_NORM.items():
        yield _entry(f"{name}.{theirs}", ("constants", *path, ours), (channels,), (0,))


def _entry(name: str, path: Path, shape: Shape, axes: Shape) -> Entry:
    return Entry(name, path, shape, shape, axes, tuple(shape[axis] for axis in axes))


def _leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterable[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _check(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> None:
    problems = [f"missing {name}" for name in shapes if name not in arrays]
    problems += [f"unexpected {name}" for name in arrays if name not in shapes]
    problems += [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if problems:
        raise ValueError("the weights do not fit the model:\n  " + "\n  ".join(problems))
