"""Reads a config of Detectron2, as ``config.yaml`` in the folder of a training, to our settings.

Only what detection needs is read: the network, its rules, and the sizes of images. Keys that have
no counterpart here must have the values of a Mask R-CNN with a feature pyramid.
"""

import ast
import fnmatch
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from maskrcnn_jax import config_check, presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.weights.detectron2_keys import (
    C4,
    CASCADE,
    CONVERTED,
    FIELDS,
    FIXED,
    IGNORED,
    KINDS,
    NORMS,
)

MAX_BYTES, MAX_KEYS, MAX_BASES = 1 << 20, 10_000, 5


class Settings(NamedTuple):
    """The settings of a config of Detectron2."""

    config: Config
    channel_order: str  # "RGB" or "BGR".


def read(path: str | Path) -> Settings:
    """Reads a YAML file and the files that it names as its base.

    Raises:
        OSError: A file does not exist or cannot be read.
        ValueError: A file is no config of Detectron2, or has settings without a counterpart; the
            message names the file and lists all of them.
    """
    path = Path(path)
    try:
        found = dict(_merged(path, path.parent.resolve(), MAX_BASES))
        return _convert(found)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a config of Detectron2: {error}") from error


def _merged(path: Path, folder: Path, bases_left: int) -> dict[str, Any]:
    """Returns the values of a file by their keys, on top of those of its base."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_BYTES} bytes")
    try:
        root = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        # The message may quote what is wrong over several lines.
        raise ValueError(f"it is no plain YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(root, dict):
        raise ValueError(f"{path.name} is no table of keys")
    if any("_target_" in x for x in (root, *root.values()) if isinstance(x, dict)):
        raise ValueError("it is a LazyConfig, whose classes are not made; give a YAML of yacs")
    base = root.pop("_BASE_", None)
    found = {}
    if base is not None:
        beside = (path.parent / str(base)).resolve()
        if not beside.is_relative_to(folder) or bases_left == 0:
            raise ValueError(
                f"its _BASE_ {str(base)[:200]!r} is not in its folder, or the {MAX_BASES + 1}th: "
                "copy it there, or give the config.yaml that Detectron2 writes"
            )
        found = _merged(beside, folder, bases_left - 1)
    for key, value in _flat(root, "", itertools.count()):
        _check_size(value)
        found[key] = _plain(value)
    return found


def _flat(
    table: Mapping[Any, Any], prefix: str, counter: Iterator[int]
) -> Iterator[tuple[str, Any]]:
    if prefix.count(".") > 10:
        raise ValueError("its tables are nested more than ten deep")
    for key, value in table.items():
        if next(counter) >= MAX_KEYS:  # Aliases may repeat whole tables.
            raise ValueError(f"it has more than {MAX_KEYS} keys")
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.", counter)
        else:
            yield f"{prefix}{key}", value


def _check_size(value: Any, left: int = MAX_KEYS, depth: int = 0) -> int:
    """Raises ValueError if a list has too many members, or is nested too deep, as by aliases."""
    if left < 0 or depth > 10:
        raise ValueError(f"it has a list of more than {MAX_KEYS} members, or one nested too deep")
    if isinstance(value, list | tuple):
        for member in value:
            left = _check_size(member, left - 1, depth + 1)
    return left


def _plain(value: Any) -> Any:
    """Returns lists as tuples, and text that stands for a tuple as that tuple."""
    if isinstance(value, str) and value.startswith("("):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    if isinstance(value, list | tuple):
        if any(isinstance(x, dict) for x in value):
            raise ValueError("it has a list of tables, which no config of Detectron2 has")
        return tuple(_plain(x) if isinstance(x, list | tuple) else x for x in value)
    return value


def _convert(found: Mapping[str, Any]) -> Settings:
    """Returns the settings of all keys. Raises ValueError with the keys without a counterpart."""
    defaults = {key: value for key, (value, _) in FIELDS.items()} | CONVERTED
    values = defaults | FIXED | C4 | dict(found)
    build, fixed = min(KINDS, key=lambda kind: len(_others(values, kind[1])))
    problems = [
        f"{key}: {str(values[key])[:100]}, only {fixed[key]} is possible"
        for key in _others(values, fixed)
    ]
    for key, value in values.items():
        if key not in defaults and key not in fixed and not _is_ignored(key):
            problems.append(f"{key}: {str(value)[:100]} has no counterpart")
    config = build()
    if values["MODEL.MASK_ON"] is not True:
        config.model.mask_head = None
    if values[CASCADE[0]] == CASCADE[1]:
        presets.use_cascade(config)
    for key, (_, field) in FIELDS.items():
        set_field(config, field, values[key])
    side = config.model.box_head.resolution
    if config.model.box_head.res5 and isinstance(side, int):
        # The mask head reads what the box head pools.
        set_field(config, "model.mask_head.resolution", side // 2)
    problems += _set_converted(config, values)
    if problems:
        raise ValueError("it has settings without a counterpart:\n  " + "\n  ".join(problems))
    config_check.check(config)
    return Settings(config, values["INPUT.FORMAT"])


def _others(values: Mapping[str, Any], fixed: Mapping[str, Any]) -> list[str]:
    """Returns the keys whose values are not those of a kind of network."""
    return [key for key, x in fixed.items() if values[key] != x and (key, values[key]) != CASCADE]


def _is_ignored(key: str) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in IGNORED)


def set_field(config: Config, field: str, value: Any) -> None:
    """Sets a field by its path; none of a mask head that is not there."""
    *parts, name = field.split(".")
    owner: Any = config
    for part in parts:
        owner = getattr(owner, part)
    if owner is None:
        return
    is_float = isinstance(getattr(owner, name), float) and type(value) is int
    setattr(owner, name, float(value) if is_float else value)


def _set_converted(config: Config, values: Mapping[str, Any]) -> Iterator[str]:
    """Sets the fields of `CONVERTED`; yields what has no counterpart."""
    model = config.model
    for key, part in {
        "MODEL.RESNETS.NORM": model.backbone,
        "MODEL.FPN.NORM": model.fpn,
        "MODEL.ROI_BOX_HEAD.NORM": model.box_head,
        "MODEL.ROI_MASK_HEAD.NORM": model.mask_head,
    }.items():
        if values[key] not in NORMS:
            yield f"{key}: {str(values[key])[:100]}, only {', '.join(NORMS)} are possible"
        elif part is not None:
            part.norm = NORMS[values[key]]
    width, stem = values["MODEL.RESNETS.WIDTH_PER_GROUP"], model.backbone.stem_channels
    if isinstance(width, int) and isinstance(stem, int) and stem > 0 and 64 * width % stem == 0:
        model.backbone.width_per_group = 64 * width // stem
    else:
        yield f"MODEL.RESNETS.WIDTH_PER_GROUP: {str(width)[:100]}, with {str(stem)[:100]} for stems"
    sizes, ratios = (values[f"MODEL.ANCHOR_GENERATOR.{x}"] for x in ("SIZES", "ASPECT_RATIOS"))
    is_list = isinstance(sizes, tuple) and all(isinstance(x, tuple) for x in sizes)
    if model.fpn is None and is_list and len(sizes) == 1 and sizes[0]:
        (model.rpn.anchor_sizes,) = sizes
    elif model.fpn is not None and is_list and [len(x) for x in sizes] == [1] * 5:
        model.rpn.anchor_sizes = tuple(x[0] for x in sizes)
    else:
        expected = "one list" if model.fpn is None else "five lists of one size"
        yield f"MODEL.ANCHOR_GENERATOR.SIZES: {str(sizes)[:100]}, expected {expected}"
    if isinstance(ratios, tuple) and len(ratios) == 1 and isinstance(ratios[0], tuple):
        model.rpn.aspect_ratios = ratios[0]
    else:
        yield f"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS: {str(ratios)[:100]}, expected one list"
    thresholds = values["MODEL.RPN.IOU_THRESHOLDS"], values["MODEL.ROI_HEADS.IOU_THRESHOLDS"]
    if [len(x) if isinstance(x, tuple) else 0 for x in thresholds] == [2, 1]:
        (model.rpn.negative_iou, model.rpn.positive_iou), (model.roi.positive_iou,) = thresholds
    else:
        yield f"MODEL.RPN.IOU_THRESHOLDS, MODEL.ROI_HEADS.IOU_THRESHOLDS: {str(thresholds)[:100]}"
    yield from _set_cascade(config, values)
    yield from _set_rest(config, values)


def _set_cascade(config: Config, values: Mapping[str, Any]) -> Iterator[str]:
    """Sets the rules of the stages of a cascade, of which the first are those of the RoIs."""
    prefix, model = "MODEL.ROI_BOX_CASCADE_HEAD", config.model
    if model.cascade is None:
        return
    if not model.box_head.class_agnostic:
        yield "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG: False, a cascade needs True"
    ious, weights = values[f"{prefix}.IOUS"], values[f"{prefix}.BBOX_REG_WEIGHTS"]
    are_lists = isinstance(ious, tuple) and isinstance(weights, tuple)
    if not are_lists or len(ious) != len(weights) or len(ious) < 2:
        yield f"{prefix}.IOUS, BBOX_REG_WEIGHTS: {str((ious, weights))[:100]}, expected a pair each"
    elif ious[0] != model.roi.positive_iou:
        yield f"{prefix}.IOUS: {str(ious)[:100]}, MODEL.ROI_HEADS has {model.roi.positive_iou}"
    else:
        model.roi.box_weights, model.cascade.box_weights = weights[0], weights[1:]
        model.cascade.positive_ious = ious[1:]


def _set_rest(config: Config, values: Mapping[str, Any]) -> Iterator[str]:
    model = config.model
    convs, allowed = values["MODEL.RPN.CONV_DIMS"], {-1}
    if model.fpn is not None:
        allowed.add(model.fpn.channels)
    if isinstance(convs, tuple) and set(convs) <= allowed:
        model.rpn.num_convs = len(convs)
    else:
        yield f"MODEL.RPN.CONV_DIMS: {str(convs)[:100]}, only {sorted(allowed)} are possible"
    classes = values["MODEL.ROI_HEADS.NUM_CLASSES"]
    if isinstance(classes, int):
        model.num_classes = classes + 1
    else:
        yield f"MODEL.ROI_HEADS.NUM_CLASSES: {str(classes)[:100]}, expected a number"
    for kind in ("TYPE", "SAMPLING_RATIO"):
        box, mask = (values.get(f"MODEL.ROI_{x}_HEAD.POOLER_{kind}") for x in ("BOX", "MASK"))
        if model.mask_head is not None and mask is not None and mask != box:
            yield f"MODEL.ROI_MASK_HEAD.POOLER_{kind}: {str(mask)[:100]}, the box head has {box}"
    poolers = {"ROIAlignV2": ("align", True), "ROIAlign": ("align", False)}
    poolers["ROIPool"] = ("pool", False)
    pooler = values["MODEL.ROI_BOX_HEAD.POOLER_TYPE"]
    if pooler in poolers:
        model.roi.pooling, model.roi.aligned = poolers[pooler]
    else:
        yield f"MODEL.ROI_BOX_HEAD.POOLER_TYPE: {str(pooler)[:100]}"
    flips = {"horizontal": (0.5, 0.0), "vertical": (0.0, 0.5), "none": (0.0, 0.0)}
    flip = values["INPUT.RANDOM_FLIP"]
    if flip in flips:
        config.data.horizontal_flip, config.data.vertical_flip = flips[flip]
    else:
        yield f"INPUT.RANDOM_FLIP: {str(flip)[:100]}"
    yield from _set_classifier(config, values)
    yield from _set_pixels(config, values)


def _set_classifier(config: Config, values: Mapping[str, Any]) -> Iterator[str]:
    """Sets the probabilities of classes and the federated loss."""
    sigmoid, federated = (
        values[f"MODEL.ROI_BOX_HEAD.{key}"] for key in ("USE_SIGMOID_CE", "USE_FED_LOSS")
    )
    if sigmoid is True:
        config.model.box_head.classifier = "sigmoid"
    if federated is True and sigmoid is not True:
        yield "MODEL.ROI_BOX_HEAD.USE_FED_LOSS: True needs MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE: True"
    elif federated is True:
        count = values["MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES"]
        config.model.box_head.federated_classes = count


def _set_pixels(config: Config, values: Mapping[str, Any]) -> Iterator[str]:
    """Sets the pixel statistics, which are in the order of INPUT.FORMAT."""
    order, model = values["INPUT.FORMAT"], config.model
    mean, std = values["MODEL.PIXEL_MEAN"], values["MODEL.PIXEL_STD"]
    if order not in ("BGR", "RGB"):
        yield f"INPUT.FORMAT: {str(order)[:100]}, only BGR and RGB are possible"
    for key, numbers in (("MEAN", mean), ("STD", std)):
        is_triple = isinstance(numbers, tuple) and len(numbers) == 3
        if not is_triple or not all(isinstance(x, int | float) for x in numbers):
            yield f"MODEL.PIXEL_{key}: {str(numbers)[:100]}, expected three numbers"
            return
    step = -1 if order == "BGR" else 1
    model.image_mean = tuple(x / 255 for x in mean[::step])
    model.image_std = tuple(x / 255 for x in std[::step])
