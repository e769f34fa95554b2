"""Translates a model for torchvision, Detectron2 or MMDetection: its names, classes and rules.

A weight file holds arrays alone. `translate` gives the arrays that the other library needs, and a
table of the rules in which the model differs from a config of that library: those that can be set
there, and those that cannot.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig, ViTConfig
from maskrcnn_jax.weights import (
    detectron2,
    differences,
    files,
    layout,
    mmdetection,
    model_metadata,
    torchvision,
)
from maskrcnn_jax.weights.differences import Difference
from maskrcnn_jax.weights.layout import Entry
from maskrcnn_jax.weights.loading import LoadedModel
from maskrcnn_jax.weights.norm_eps import DEFAULT
from maskrcnn_jax.weights.torchvision_resnet import COUNTER

FAMILIES = {"torchvision": torchvision, "detectron2": detectron2, "mmdet": mmdetection}
SUFFIXES = {
    "torchvision": (".pth", ".safetensors"),
    "detectron2": (".pkl", ".pth"),
    "mmdet": (".pth",),
}
MAX_LAYERS = 9  # Of a head: the names of more have two digits, which no released model has.
# The bias of a class that a model does not know; its probability is 0 in float32.
NEVER = -1e4
LAYER_NORM_EPS = 1e-6  # Of Detectron2.
# Parts and layers with outputs for each class.
OF_CLASSES = {("box_head", "cls_score"), ("box_head", "bbox_pred"), ("mask_head", "logits")}
PARTS = ("backbone", "fpn", "box_head", "mask_head")


class Translation(NamedTuple):
    """A model as another library computes it."""

    target: str  # A key of `FAMILIES`.
    base: str  # The config or function of the library that is nearest to the model.
    config: Config  # As the library computes it, in our fields.
    source: Config  # With the number of classes of the file.
    variables: dict[str, Any]
    categories: Categories | None
    is_bgr: bool  # The order of the channels that the stem of the file reads.
    extras: dict[str, np.ndarray]  # Arrays of the file that no variable holds.
    differences: list[Difference]
    notes: list[str]  # Lines for the report: what was changed in the arrays.
    moves: bool  # Whether detections move, because a rule cannot be set there or outputs are gone.


def translate(loaded: LoadedModel, target: str) -> Translation:
    """Translates a loaded model.

    Args:
        loaded: The model. Its variables stay as they are.
        target: A key of `FAMILIES`.

    Raises:
        ValueError: The library has no such network; the message names every reason.
    """
    source, variables, notes = copy.deepcopy(loaded.config), loaded.variables, []
    check_can_build(source.model, target)
    origin = loaded.origin
    is_own = origin is not None and origin.family is FAMILIES[target]
    categories = loaded.categories
    if not is_own and (labels := _labels(categories, target)) is not None:
        variables = _with_labels(variables, labels)
        source.model.num_classes = len(labels) + 1
        source.model.box_head.class_frequencies = ()  # They are those of the other labels.
        notes.append(_describe_labels(labels))
        categories = _coco_of(target)
    if target == "detectron2" and (parts := _parts_with_other_eps(source.model)):
        variables = _with_folded_eps(variables, source.model, parts)
        for name in parts:
            getattr(source.model, name).norm_eps = DEFAULT
        notes.append(f"eps of the norms: folded into the variances of {', '.join(parts)}")
    is_bgr = target != "torchvision" and presets.reads_bgr(source.model)
    if is_own:
        is_bgr = origin.is_bgr
    base, found = differences.find(source, target, is_bgr)
    there = differences.as_computed(source, found)
    extras = origin.extras if is_own else _counters(source.model, target)
    if target == "detectron2" and not is_own and (drawn := detectron2.extras(source.model)):
        extras |= drawn
        notes.append(f"federated loss: {detectron2.FEDERATED}, for USE_FED_LOSS: True")
    is_smaller = source.model.num_classes < loaded.config.model.num_classes
    moves = is_smaller or any(each.setting is None for each in found)
    return Translation(
        target, base, there, source, variables, categories, is_bgr, extras, found, notes, moves
    )


def write(path: Any, translation: Translation, *, consume: bool = False) -> None:
    """Writes the file of a translation; the suffix is one of `SUFFIXES` of its target.

    With ``consume`` the variables of the translation are emptied on the way, which saves memory.

    Raises:
        ValueError: The format cannot hold an array.
    """
    family = FAMILIES[translation.target]
    table = list(family.entries(translation.source.model))
    arrays = layout.restore(translation.variables, table, consume=consume)
    for stem in family.STEMS if translation.is_bgr else ():
        if stem in arrays:
            arrays[stem] = arrays[stem][:, ::-1]
    arrays |= translation.extras
    classes, about = None, {}
    if translation.target == "torchvision":
        about = model_metadata.encode(translation.source, translation.categories)
    elif translation.target == "mmdet" and translation.categories is not None:
        classes = translation.categories.names
    files.write(path, arrays, about, classes)


def check_can_build(config: ModelConfig, target: str) -> None:
    """Raises ValueError, with every reason, if a library has no network with these arrays."""
    reasons = list(_reasons(config, target))
    if reasons:
        raise ValueError(f"{target} has no network with {', '.join(reasons)}; .npz holds any")


def _reasons(config: ModelConfig, target: str) -> Iterator[str]:
    if len(config.image_mean) != 3:
        yield f"{len(config.image_mean)} channels of images"
    if target == "torchvision":
        yield from torchvision.missing(config)
        return
    is_vit = isinstance(config.backbone, ViTConfig)
    if is_vit and target == "mmdet":
        yield "a ViT"
    if target == "mmdet" and config.fpn is None and not config.box_head.res5:
        yield "the coarsest map alone, and no model.box_head.res5"
    if isinstance(config.backbone, ConvNeXtConfig):
        yield "torchvision's ConvNeXt"
    if config.fpn is not None and is_vit == config.fpn.top_down:
        yield f"model.fpn.top_down {config.fpn.top_down} and this backbone"
    for name in ("fpn", "box_head", "mask_head"):
        if target == "mmdet" and getattr(getattr(config, name), "norm", "none") == "layer":
            yield f'model.{name}.norm "layer"'
    heads = {"detectron2": "one", "mmdet": "each"}
    if config.cascade is not None and config.mask_head is not None:
        if config.cascade.mask_heads != heads[target]:
            yield f"model.cascade.mask_heads {config.cascade.mask_heads}"
    if target == "mmdet" and config.box_head.classifier != "softmax":
        yield f'model.box_head.classifier "{config.box_head.classifier}"'
    for name in ("box_head", "mask_head"):
        head = getattr(config, name)
        if head is not None and head.num_convs > MAX_LAYERS:
            yield f"model.{name}.num_convs {head.num_convs}"
    if config.box_head.num_layers > MAX_LAYERS:
        yield f"model.box_head.num_layers {config.box_head.num_layers}"
    head = config.box_head
    if head.num_convs + head.num_layers == 0 and not head.res5:
        yield "a box head without layers"
    if not 1 <= config.rpn.num_convs <= MAX_LAYERS:
        yield f"model.rpn.num_convs {config.rpn.num_convs}"
    for name in _parts_with_other_eps(config):
        part = getattr(config, name)
        if target == "detectron2" and part.norm in ("group", "layer"):
            yield f"model.{name}.norm_eps {part.norm_eps:g} of {part.norm} norm"


def _parts_with_other_eps(config: ModelConfig) -> list[str]:
    """Names the parts whose norms have another eps than the default."""
    parts = {name: getattr(config, name) for name in PARTS}
    norms = {name: getattr(part, "norm", "none") for name, part in parts.items()}
    usual = {"none": None, "layer": LAYER_NORM_EPS}
    return [
        name
        for name, part in parts.items()
        if norms[name] != "none" and part.norm_eps != usual.get(norms[name], DEFAULT)
    ]


def _labels(categories: Categories | None, target: str) -> list[int | None] | None:
    """Returns our label for each label of the target, from 1 on; None if they are the same.

    torchvision's labels of COCO are its 90 ids, with gaps. Those of the others are 80 numbers.
    """
    if target != "torchvision" and categories == Categories.torchvision_coco():
        return [i for i, name in enumerate(categories.names, start=1) if name != "N/A"]
    if target == "torchvision" and categories == Categories.coco():
        ids = Categories.torchvision_coco().ids
        return [categories.label(i) if i in categories.ids else None for i in ids]
    return None


def _coco_of(target: str) -> Categories:
    is_torchvision = target == "torchvision"
    return Categories.torchvision_coco() if is_torchvision else Categories.coco()


def _describe_labels(labels: Sequence[int | None]) -> str:
    if None in labels:
        return (
            "classes: 80 became 90, whose labels are COCO's ids, as in torchvision's weights; "
            f"{labels.count(None)} ids have no category and the probability 0"
        )
    return (
        "classes: of 90 labels, COCO's ids, 80 have a category and are kept; the probability of "
        "the others goes to these"
    )


def _with_labels(variables: Mapping[str, Any], labels: Sequence[int | None]) -> dict[str, Any]:
    """Returns variables with the outputs of other labels; background stays first."""
    flat = traverse_util.flatten_dict(variables)
    sources = [0, *(0 if label is None else label for label in labels)]
    is_new = np.array([False, *(label is None for label in labels)])
    for path in flat:
        part, layer = path[1], path[-2]
        if (part, layer) not in OF_CLASSES:
            continue
        array = np.asarray(flat[path])
        # Deltas have four columns for each class.
        by_class = array.reshape(*array.shape[:-1], -1, 4 if layer == "bbox_pred" else 1)
        if by_class.shape[-2] == 1:  # Of all classes.
            continue
        taken = by_class[..., sources, :]
        is_score = path[-2:] == ("cls_score", "bias")
        taken[..., is_new, :] = NEVER if is_score else 0
        flat[path] = taken.reshape(*array.shape[:-1], -1)
    return traverse_util.unflatten_dict(flat)


def _with_folded_eps(
    variables: Mapping[str, Any], config: ModelConfig, parts: Sequence[str]
) -> dict[str, Any]:
    """Returns variables whose norms compute the same with the default eps."""
    flat = traverse_util.flatten_dict(variables)
    for path in flat:
        part = "backbone" if path[2] == "res5" else path[1]
        if path[-1] == "var" and part in parts:
            change = np.float64(getattr(config, part).norm_eps) - DEFAULT
            flat[path] = (np.asarray(flat[path], np.float64) + change).astype(np.float32)
    return traverse_util.unflatten_dict(flat)


def _counters(config: ModelConfig, target: str) -> dict[str, np.ndarray]:
    """Returns the batch counters, zeros, that a library keeps for its norms."""
    family: ModuleType = FAMILIES[target]
    names = [x.name for x in family.entries(config) if _is_counted(x, target)]
    return {x.replace("running_var", COUNTER): np.array(0, np.int64) for x in names}


def _is_counted(entry: Entry, target: str) -> bool:
    """Whether a norm has a counter: all of MMDetection's, and those that train elsewhere."""
    is_trained = entry.path[0] == "batch_stats" or target == "mmdet"
    return entry.path[-1] == "var" and is_trained
