"""The names of torchvision's detectors: Mask R-CNN and Faster R-CNN with a ResNet-FPN backbone.

This covers `maskrcnn_resnet50_fpn` and `fasterrcnn_resnet50_fpn` with frozen or trained batch norm,
their second versions, and the same models with other ResNet depths. Weights are NumPy arrays by
name, so PyTorch is not needed.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig, ResNetConfig, ViTConfig
from maskrcnn_jax.modules import backbones, resnet
from maskrcnn_jax.roi_heads.composition import module_paths
from maskrcnn_jax.weights import convnext, guess, layout, torchvision_resnet, vit
from maskrcnn_jax.weights.guess import Guess
from maskrcnn_jax.weights.layout import Entry, Path
from maskrcnn_jax.weights.pytorch_layers import (
    convolution,
    linear,
    normalisation,
    transposed_convolution,
)
from maskrcnn_jax.weights.torchvision_resnet import COUNTER

WHOSE = "torchvision's"
BODY = "backbone.body."
STEM = f"{BODY}conv1.weight"  # Of a ResNet.
STEMS = (STEM,)
MASK_HEAD = "roi_heads.mask_"
NORMS_OF_BACKBONE = ("frozen_batch", "fixed_batch", "batch")
NORMS = ("none", "batch")

# Old names of the convolutions that torchvision later put into blocks.
RENAMED = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    *(
        (rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(weight|bias)", rf"roi_heads.mask_head.{i}.0.\1")
        for i in range(9)
    ),
)


def recognises(names: Iterable[str]) -> bool:
    """Tells whether a file has the names of torchvision's detectors."""
    return any(name.startswith(BODY) for name in names)


def config(state: Mapping[str, np.ndarray]) -> ModelConfig:
    """Infers the config of a file from its names and shapes, and torchvision's defaults.

    Batch norm is taken as trained if the file has batch counters. Missing arrays are not detected
    here, but in the comparison with `entries`.

    Raises:
        ValueError: The backbone is not a ResNet of a supported depth.
    """
    is_convnext = convnext.recognises(state, BODY)
    depth = torchvision_resnet.resnet_depth(state, BODY)
    if depth is None and not is_convnext:
        raise ValueError(
            "its backbone is no ConvNeXt, and no ResNet of 18, 34, 50, 101 or 152 layers"
        )
    classes = num_classes(state) or presets.COCO_CLASSES
    has_masks = any(name.startswith(MASK_HEAD) for name in state)
    kind = "maskrcnn_resnet50_fpn" if has_masks else "fasterrcnn_resnet50_fpn"
    if any(name.startswith("roi_heads.box_head.0.") for name in state):
        found = presets.PRESETS[f"{kind}_v2"](classes)
    else:
        found = presets.PRESETS[kind](classes)
        is_counted = any(name.endswith(f".{COUNTER}") for name in state)
        found.backbone.norm = "batch" if is_counted else "frozen_batch"
    if is_convnext:
        found.backbone = ConvNeXtConfig()
        convnext.set_sizes(found.backbone, state, BODY)
    else:
        found.backbone.depth = depth
        _set_resnet(found.backbone, state)
    _set_widths(found, state)
    return found


def _set_widths(config: ModelConfig, state: Mapping[str, np.ndarray]) -> None:
    """Sets the numbers of channels in a config to those of the arrays of a file."""

    def set_inputs(part: Any, field: str, layer: str) -> None:
        weight = state.get(f"{layer}.weight")
        if part is not None and weight is not None and weight.ndim >= 2:
            setattr(part, field, weight.shape[1])

    set_inputs(config.fpn, "channels", "rpn.head.cls_logits")
    if config.box_head.num_convs:
        set_inputs(config.box_head, "channels", "roi_heads.box_head.1.0")
    set_inputs(config.box_head, "features", "roi_heads.box_predictor.cls_score")
    set_inputs(config.mask_head, "channels", "roi_heads.mask_predictor.mask_fcn_logits")


def _set_resnet(backbone: ResNetConfig, state: Mapping[str, np.ndarray]) -> None:
    if (stem := state.get(f"{BODY}bn1.weight")) is not None:
        backbone.stem_channels = stem.size
    guess.set_groups(backbone, *(state.get(f"{BODY}layer1.0.conv{i}.weight") for i in (1, 2)))


def infer(state: Mapping[str, np.ndarray], about: Mapping[str, str]) -> Guess:
    """Infers the network of a file; the categories are COCO's if there are as many classes."""
    found = config(state)
    is_coco = found.num_classes == presets.COCO_CLASSES
    return Guess(Config(model=found), Categories.torchvision_coco() if is_coco else None)


def num_classes(arrays: Mapping[str, np.ndarray]) -> int | None:
    """Returns the number of classes, including background; None if the classifier is missing."""
    bias = arrays.get("roi_heads.box_predictor.cls_score.bias")
    return None if bias is None else bias.size


def present(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Renames old names to torchvision's present names and drops the batch counters.

    Old files, such as the released file of `maskrcnn_resnet50_fpn`, have names from before
    torchvision put convolutions into blocks. torchvision renames them too when it loads them.

    Returns:
        The arrays by present names, and the present names by old names.
    """
    renamed = {}
    for name in state:
        for pattern, replacement in RENAMED:
            if match := re.fullmatch(pattern, name):
                renamed[name] = match.expand(replacement)
    arrays = torchvision_resnet.without_counters(state)
    return {renamed.get(name, name): array for name, array in arrays.items()}, renamed


def from_state_dict(state: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, Any]:
    """Converts torchvision's state dict to the variables of `MaskRCNN(config)`.

    Returns:
        Nested float32 NumPy arrays.

    Raises:
        ValueError: torchvision has no such model, or arrays are missing, unexpected or of the wrong
            shape; the message lists all of them.
    """
    table = list(entries(config))
    arrays = torchvision_resnet.without_counters(state)
    layout.check_fit(arrays, layout.shapes(table), "the weights do not fit the model")
    return layout.arrange(arrays, table)


def to_state_dict(
    variables: Mapping[str, Any], config: ModelConfig, *, consume: bool = False
) -> dict[str, np.ndarray]:
    """Converts variables to torchvision's state dict, the inverse of `from_state_dict`.

    The state dict includes the batch counters of trained batch norm. ``consume`` as in
    `layout.restore`.

    Raises:
        ValueError: As in `from_state_dict`, with our own names.
    """
    table = list(entries(config))
    arrays, state = layout.restore(variables, table, consume=consume), {}
    for entry in table:
        state[entry.name] = arrays[entry.name]
        if entry.path[0] == "batch_stats" and entry.path[-1] == "var":
            state[entry.name.replace("running_var", COUNTER)] = np.array(0, np.int64)
    return state


def entries(config: ModelConfig) -> Iterator[Entry]:
    """Yields the table of a model, in torchvision's order of modules.

    Raises:
        ValueError: torchvision's models do not have a norm of the config, or stages.
    """
    if isinstance(config.backbone, ViTConfig):
        raise ValueError("torchvision has no model with a ViT")
    _check_norms(config)
    for words, is_there in _parts(config).items():
        if is_there:
            raise ValueError(f"torchvision has no model with {words}")
    yield from layers(config)


def layers(config: ModelConfig) -> Iterator[Entry]:
    """Yields the table of a model with any parts: PyTorch's layers by torchvision's names.

    The heads of the stages of a cascade have the names of the only head, with the stage in them.
    """
    match config.backbone:
        case ViTConfig():
            yield from vit.entries(config)
        case ConvNeXtConfig():
            yield from convnext.entries(config, BODY)
        case _:
            yield from torchvision_resnet.entries(config, BODY)
    if config.fpn is not None:
        yield from _fpn(config)
    yield from _rpn(config)
    paths = module_paths(config)
    for path in paths["box_head"]:
        yield from _box_head(config, path)
    for path in paths["mask_head"] if config.mask_head is not None else ():
        yield from _mask_head(config, path)


def _parts(config: ModelConfig) -> dict[str, bool]:
    """The parts that no network of torchvision has, and whether a config has each."""
    return {
        "cascade": config.cascade is not None,
        "fpn None": config.fpn is None,
        "box_head.res5": config.box_head.res5,
    }


def _check_norms(config: ModelConfig) -> None:
    allowed = {"backbone": NORMS_OF_BACKBONE}
    allowed |= dict.fromkeys(("fpn", "box_head", "mask_head"), NORMS)
    for name, norms in allowed.items():
        part = getattr(config, name)
        if getattr(part, "norm", norms[0]) not in norms:
            raise ValueError(
                f"torchvision has no model with {name}.norm={part.norm!r}, only {norms}"
            )


def _fpn(config: ModelConfig) -> Iterator[Entry]:
    width, norm = config.fpn.channels, config.fpn.norm
    channels = backbones.channels(config.backbone)
    for i in range(4):
        inputs = channels[i + 2]
        names = f"backbone.fpn.inner_blocks.{i}", ("fpn",), f"lateral{i + 2}", f"lateral{i + 2}_bn"
        yield from _normed(*names, width, inputs, 1, norm)
    for i in range(4):
        names = f"backbone.fpn.layer_blocks.{i}", ("fpn",), f"output{i + 2}", f"output{i + 2}_bn"
        yield from _normed(*names, width, width, 3, norm)


def _features(config: ModelConfig) -> int:
    """The number of channels of the maps that the RPN and the heads read."""
    if config.fpn is not None:
        return config.fpn.channels
    return backbones.channels(config.backbone)[config.levels[-1]]


def _rpn(config: ModelConfig) -> Iterator[Entry]:
    width, num_anchors = _features(config), config.anchors_per_cell
    for i in range(config.rpn.num_convs):
        yield from convolution(f"rpn.head.conv.{i}.0", ("rpn", f"conv{i}"), width, width, 3)
    yield from convolution("rpn.head.cls_logits", ("rpn", "cls_logits"), num_anchors, width, 1)
    yield from convolution("rpn.head.bbox_pred", ("rpn", "bbox_pred"), 4 * num_anchors, width, 1)


def _box_head(config: ModelConfig, path: Path) -> Iterator[Entry]:
    """Yields a box head. Linear layers are fc6 and fc7, or numbered after the convolutions."""
    head, name = config.box_head, ".".join(("roi_heads", *path))
    inputs = _features(config)
    if head.res5:
        yield from torchvision_resnet.stage(config.backbone, 5, "roi_heads.res5", (*path, "res5"))
    for i in range(head.num_convs):
        names = f"{name}.{i}", path, f"conv{i}", f"bn{i}"
        yield from _normed(*names, head.channels, inputs, 3, head.norm)
        inputs = head.channels
    shape = inputs, head.resolution, head.resolution
    if head.res5:  # The mean over the cells.
        shape = (resnet.stage_channels(config.backbone)[5],)
    for i in range(head.num_layers):
        # In the numbering, a flattening layer follows the convolutions, and an activation follows
        # each linear layer.
        layer = str(head.num_convs + 1 + 2 * i) if head.num_convs else f"fc{6 + i}"
        yield from linear(f"{name}.{layer}", (*path, f"fc{6 + i}"), head.features, shape)
        shape = (head.features,)
    predictor, classes = ".".join(("roi_heads.box_predictor", *path[1:])), config.num_classes
    yield from linear(f"{predictor}.cls_score", (*path, "cls_score"), classes, shape)
    num_boxes = 1 if head.class_agnostic else classes
    yield from linear(f"{predictor}.bbox_pred", (*path, "bbox_pred"), 4 * num_boxes, shape)


def _mask_head(config: ModelConfig, path: Path) -> Iterator[Entry]:
    head, name = config.mask_head, ".".join(("roi_heads", *path))
    inputs, width = _features(config), head.channels
    if config.box_head.res5:
        inputs = resnet.stage_channels(config.backbone)[5]
    for i in range(head.num_convs):
        names = f"{name}.{i}", path, f"conv{i}", f"bn{i}"
        yield from _normed(*names, width, inputs, 3, head.norm)
        inputs = width
    predictor = ".".join(("roi_heads.mask_predictor", *path[1:]))
    deconv = (*path, "deconv"), inputs, width, 2
    yield from transposed_convolution(f"{predictor}.conv5_mask", *deconv)
    logits = (*path, "logits"), 1 if head.class_agnostic else config.num_classes, width, 1
    yield from convolution(f"{predictor}.mask_fcn_logits", *logits)


def _normed(
    name: str, parent: Path, conv: str, bn: str, outputs: int, inputs: int, side: int, norm: str
) -> Iterator[Entry]:
    """Yields a convolution: with a bias, or without a bias and followed by a norm."""
    path = (*parent, conv)
    yield from convolution(f"{name}.0", path, outputs, inputs, side, bias=norm == "none")
    if norm != "none":
        yield from normalisation(f"{name}.1", (*parent, bn), outputs, norm)


def function_of(config: ModelConfig) -> str | None:
    """Returns the name of torchvision's function that builds a network, or None.

    The number of classes, the number of channels and the kind of norm do not matter.
    """
    if getattr(config.backbone, "stride_in_1x1", False):
        return None
    for name, build in presets.PRESETS.items():
        preset = build(config.num_classes)
        if _shapes(dataclasses.replace(preset, image_mean=config.image_mean)) == _shapes(config):
            return name
    return None


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]] | None:
    """Returns the shapes of all arrays by name, or None if torchvision has no such network."""
    try:
        return layout.shapes(entries(config))
    except ValueError:
        return None


def missing(config: ModelConfig) -> list[str]:
    """Names what a network has that torchvision cannot build; empty if it holds all arrays."""
    if isinstance(config.backbone, ViTConfig):
        return ["a ViT"]
    found = [words for words, is_there in _parts(config).items() if is_there]
    for name in ("backbone", "fpn", "box_head", "mask_head"):
        norm = getattr(getattr(config, name), "norm", None)
        allowed = NORMS_OF_BACKBONE if name == "backbone" else NORMS
        if norm is not None and norm not in allowed:
            found.append(f'{name}.norm "{norm}"')
        if getattr(getattr(config, name), "class_agnostic", False):
            found.append(f"{name}.class_agnostic")
    if config.box_head.classifier != "softmax":
        found.append(f'box_head.classifier "{config.box_head.classifier}"')
    stem_channels = getattr(config.backbone, "stem_channels", 64)
    if stem_channels != 64:
        found.append(f"backbone.stem_channels {stem_channels}")
    if config.fpn is not None and not config.fpn.top_down:
        found.append("fpn.top_down False")
    if not config.box_head.num_convs and config.box_head.num_layers != 2:
        found.append(f"box_head.num_layers {config.box_head.num_layers}")
    return found


def check_can_build(config: ModelConfig) -> None:
    """Raises ValueError if torchvision has no such network, or computes different outputs."""
    differences = missing(config)
    if differences == ["a ViT"]:
        raise ValueError("torchvision has no model with a ViT; .npz holds any of ours")
    if getattr(config.backbone, "stride_in_1x1", False) and config.backbone.depth >= 50:
        differences.append("backbone.stride_in_1x1")
    if config.roi.aligned:
        differences.append("roi.aligned")
    if config.roi.pooling != "align":
        differences.append(f'roi.pooling "{config.roi.pooling}"')
    if differences:
        raise ValueError(
            f"torchvision has no model with {', '.join(differences)}; .npz holds any of ours"
        )
