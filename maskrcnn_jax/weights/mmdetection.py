"""The names of MMDetection's Mask R-CNN, Cascade and Faster R-CNN with a ResNet-FPN backbone.

Versions 2.x and 3.x have the same names.

As in Detectron2, background is the last class, and box deltas and masks have no rows for it. The
order of the stem's channels depends on the config: BGR in the style of Caffe, RGB in that of
PyTorch.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.weights import detectron2, guess, torchvision
from maskrcnn_jax.weights.guess import Guess
from maskrcnn_jax.weights.layout import Entry, Path
from maskrcnn_jax.weights.torchvision_resnet import COUNTER

WHOSE = "MMDetection's"
BODY = "backbone."
STEM = f"{BODY}conv1.weight"
STEMS = (STEM,)
SHARED = "roi_head.shared_head."
BOX, MASK = "roi_head.bbox_head.", "roi_head.mask_head."
EMA = "ema_"  # MMDetection 2 keeps averages beside the weights.
STARTS = ("neck.", "rpn_head.", "roi_head.", "bbox_head.")
OTHERS = (
    (r".*\.conv2_offset\.|.*\.conv2\.conv_offset\.", "a network with deformable convolutions"),
    (r"backbone\.(stages|patch_embed|layers)\.", "a network with a transformer backbone"),
    (r"roi_head\.(point_head|glbctx_head|semantic_head|grid_head)\.", "another kind of network"),
    (r"roi_head\.mask_head\.fcs\.", "a network with coarse masks"),
)
MAX_CONFIG = 1 << 20  # Characters; longer texts of a config are not parsed.


def recognises(names: Iterable[str]) -> bool:
    """Tells whether a file has the names of MMDetection's detectors."""
    names = list(names)
    has_heads = any(name.startswith(STARTS) for name in names)
    return has_heads and any(name.startswith(BODY) for name in names)


def infer(state: Mapping[str, np.ndarray], about: Mapping[str, str]) -> Guess:
    """Infers the network of a file from its names, shapes and metadata, and a preset for all else.

    Raises:
        ValueError: It is a network of another kind; the message names it.
    """
    check_kind(state)
    config = _preset(state)
    is_bgr, reason = _choose_input(config.model, state, about.get("checkpoint.config", ""))
    backbone = config.model.backbone
    is_of_fair = backbone.stride_in_1x1 or presets.reads_bgr(config.model)
    if is_of_fair and backbone.norm == "fixed_batch":
        backbone.norm = "frozen_batch"  # In these backbones no norm trains.
    return Guess(config, _categories(config.model, about), is_bgr, (reason,))


def check_kind(state: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError, with the kind, if the names are of another network."""
    for pattern, kind in OTHERS:
        if any(re.match(pattern, name) for name in state):
            raise ValueError(f"it is {kind}, and only ResNets with a feature pyramid are loaded")
    if not any(name.startswith(BOX) for name in state):
        if any(name.startswith(("bbox_head.fc_cls", "bbox_head.shared_fcs")) for name in state):
            raise ValueError(
                "it is of MMDetection 1, with background as the first class: convert it by "
                "MMDetection's tools/model_converters/upgrade_model_version.py"
            )
        raise ValueError("it is another kind of detector, without a box head for RoIs")


def _preset(state: Mapping[str, np.ndarray]) -> Config:
    """Returns the preset of MMDetection with the norms, heads and sizes of a file."""
    if any(name.startswith(SHARED) for name in state):
        return _preset_of_c4(state)
    config = presets.mmdet_r50_fpn()
    model = config.model
    if guess.num_stages(state, rf"{re.escape(BOX)}(\d)\."):
        presets.use_cascade_of_mmdetection(config)
    box, mask = (re.escape(f"{x}{_stage(model)}") for x in (BOX, MASK))
    pattern = r"backbone\.layer([1-4])\.(\d{1,3})\.(conv3\.)?"
    model.backbone.depth = guess.resnet_depth(state, pattern)
    model.num_classes = num_classes(state) or model.num_classes
    # Batch counters do not tell: MMDetection keeps them for fixed statistics too.
    if f"{BODY}gn1.weight" in state:
        model.backbone.norm = "group"
    model.fpn.norm = _norm_kind(state, "neck.lateral_convs.0.")
    convs = _numbers(state, r"rpn_head\.rpn_conv\.(\d)\.conv\.")
    model.rpn.num_convs = 1 + max(convs, default=0)
    model.box_head.num_convs = len(_numbers(state, rf"{box}shared_convs\.(\d)\."))
    model.box_head.num_layers = len(_numbers(state, rf"{box}shared_fcs\.(\d)\."))
    model.box_head.norm = _norm_kind(state, f"{BOX}{_stage(model)}shared_convs.0.")
    if not any(name.startswith(MASK) for name in state):
        model.mask_head = None
    else:
        model.mask_head.num_convs = len(_numbers(state, rf"{mask}convs\.(\d)\."))
        model.mask_head.norm = _norm_kind(state, f"{MASK}{_stage(model)}convs.0.")
    guess.set_widths(model, state, name)
    guess.set_groups(model.backbone, *(state.get(f"{BODY}layer1.0.conv{i}.weight") for i in (1, 2)))
    guess.set_class_agnostic(model, state, name)
    return config


def _preset_of_c4(state: Mapping[str, np.ndarray]) -> Config:
    """Returns the preset of a C4 network with the sizes of a file."""
    config = presets.mmdet_r50_caffe_c4()
    model = config.model
    pattern = r"backbone\.layer([1-4])\.(\d{1,3})\.(conv3\.)?"
    names = [name.replace(SHARED, BODY) for name in state]
    model.backbone.depth = guess.resnet_depth(names, pattern)
    model.num_classes = num_classes(state) or model.num_classes
    if not any(name.startswith(MASK) for name in state):
        model.mask_head = None
    guess.set_widths(model, state, name)
    guess.set_class_agnostic(model, state, name)
    return config


def _stage(model: ModelConfig) -> str:
    """Returns the part of names that says the first stage of a cascade."""
    return "" if model.cascade is None else "0."


def _norm_kind(state: Mapping[str, np.ndarray], conv_module: str) -> str:
    if f"{conv_module}gn.weight" in state:
        return "group"
    return "batch" if f"{conv_module}bn.weight" in state else "none"


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    return {int(match[1]) for name in names if (match := re.match(pattern, name))}


def _choose_input(
    model: ModelConfig, state: Mapping[str, np.ndarray], text: str
) -> tuple[bool, str]:
    """Sets the pixel statistics and the place of the stride.

    Returns:
        Whether the channels are in the order BGR, and the reason.
    """
    if found := read_config(text):
        return _use_config(model, found)
    ratio = guess.input_ratio(state.get(STEM), state.get(f"{BODY}bn1.running_var"))
    if ratio is None:
        model.image_mean, model.image_std = presets.CAFFE_MEAN, presets.CAFFE_STD
        return True, (
            "assumed: BGR pixels of 0 to 255 less their mean, strides in the 3x3, MMDetection's "
            "rule for group norm, which has no statistic that could tell"
        )
    if ratio < guess.NORMALISED_BELOW and presets.reads_bgr(model):
        return True, (
            "assumed: BGR pixels divided by their deviation, strides in the 3x3, as for the "
            "ResNeXt-101 32x8d of the model zoo; the variances of the stem are "
            f"{ratio:.1f} times its squared weights"
        )
    if ratio < guess.NORMALISED_BELOW:
        return False, (
            "assumed: the style of PyTorch: RGB pixels divided by their deviation, strides in the "
            f"3x3; the variances of the stem are {ratio:.1f} times its squared weights"
        )
    model.image_mean, model.image_std = presets.CAFFE_MEAN, presets.CAFFE_STD
    model.backbone.stride_in_1x1 = True
    return True, (
        "assumed: the style of Caffe: BGR pixels of 0 to 255 less their mean, strides in the 1x1; "
        f"the variances of the stem are {ratio:.0f} times its squared weights"
    )


def _use_config(model: ModelConfig, found: dict) -> tuple[bool, str]:
    is_rgb = found["is_rgb"]
    order = slice(None) if is_rgb else slice(None, None, -1)
    model.image_mean = tuple(float(x) / 255 for x in found["mean"][order])
    model.image_std = tuple(float(x) / 255 for x in found["std"][order])
    model.backbone.stride_in_1x1 = found["style"] == "caffe"
    where = "1x1" if model.backbone.stride_in_1x1 else "3x3"
    read = "RGB" if is_rgb else "BGR"
    return not is_rgb, f"{read} pixels, strides in the {where}, as the config in the file says"


def read_config(text: str) -> dict | None:
    """Reads pixel statistics, channel order and style from the text of a config.

    Only literals are evaluated. Returns None unless all are found once, with one value.
    """
    if not 0 < len(text) <= MAX_CONFIG:
        return None
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[str, list] = {"mean": [], "std": [], "is_rgb": [], "style": []}
    names = {"mean": "mean", "std": "std", "style": "style"}
    names |= {"bgr_to_rgb": "is_rgb", "to_rgb": "is_rgb"}
    for key, value in _pairs(tree):
        if key in names:
            found[names[key]].append(value)
    agreed = {key: each for key, each in found.items() if each and each == each[:1] * len(each)}
    values = {key: each[0] for key, each in agreed.items()}
    values.setdefault("style", "pytorch")
    is_complete = {"mean", "std", "is_rgb"} <= values.keys() and type(values["is_rgb"]) is bool
    if not is_complete or values["style"] not in ("pytorch", "caffe"):
        return None
    for key in ("mean", "std"):
        numbers = values[key]
        if not isinstance(numbers, list | tuple) or len(numbers) != 3:
            return None
        if not all(type(x) in (int, float) and abs(x) < 1e6 for x in numbers):
            return None
    return values if min(values["std"]) > 0 else None


def _pairs(tree: ast.AST) -> Iterator[tuple[str, object]]:
    """Yields keywords of calls and items of dicts whose values are literals."""
    for node in ast.walk(tree):
        named = []
        if isinstance(node, ast.Call):
            named = [(each.arg, each.value) for each in node.keywords]
        elif isinstance(node, ast.Dict):
            named = [
                (getattr(key, "value", None), x)
                for key, x in zip(node.keys, node.values, strict=True)
            ]
        for key, value in named:
            if isinstance(key, str) and isinstance(value, ast.Constant | ast.List | ast.Tuple):
                try:
                    yield key, ast.literal_eval(value)
                except (ValueError, TypeError, RecursionError):  # TypeError: a list as a key.
                    continue


def _categories(config: ModelConfig, about: Mapping[str, str]) -> Categories | None:
    """Returns the classes of the file; those of COCO have their ids, others are numbered."""
    coco = detectron2.coco(config)
    if "checkpoint.classes" not in about:
        return coco
    try:
        names = json.loads(about["checkpoint.classes"])
    except (ValueError, RecursionError):
        return coco
    is_list = isinstance(names, list) and all(isinstance(x, str) for x in names)
    if not is_list or len(names) != config.num_classes - 1:
        return coco
    if coco is not None and tuple(names) == coco.names:
        return coco
    return Categories(tuple(range(1, len(names) + 1)), tuple(names))


def num_classes(arrays: Mapping[str, np.ndarray]) -> int | None:
    """Returns the number of classes, including background; None if the classifier is missing."""
    names = f"{BOX}fc_cls.bias", f"{BOX}0.fc_cls.bias"
    return next((arrays[each].size for each in names if each in arrays), None)


def present(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Drops batch counters and the averages that MMDetection 2 keeps beside the weights."""
    kept = (x for x in state if not x.endswith(f".{COUNTER}") and not x.startswith(EMA))
    return {each: np.asarray(state[each]) for each in kept}, {}


def entries(config: ModelConfig) -> Iterator[Entry]:
    """Yields the table of a model, in torchvision's order of modules.

    Raises:
        ValueError: The backbone is no ResNet.
    """
    if not isinstance(config.backbone, ResNetConfig):
        raise ValueError("models of MMDetection are read with a ResNet only")
    for entry in torchvision.layers(config):
        yield detectron2.renamed(entry, name(entry.path[1:-1], config))


def name(path: Path, config: ModelConfig) -> str:
    """Returns the name of a layer by its path among our modules."""
    part, layer = path[0], path[-1]
    stage = f"{path[1][-1]}." if len(path) == 3 else ""  # Of a head of a cascade.
    match part:
        case "backbone":
            return _backbone_name(path, config.backbone.norm)
        case "box_head" if path[1] == "res5":
            return _block_name(path[2:], SHARED, config.backbone.norm)
        case "fpn":
            convs = "lateral_convs" if layer.startswith("lateral") else "fpn_convs"
            number = int(layer.removesuffix("_bn")[-1]) - 2
            return f"neck.{convs}.{number}." + _of_module(layer, "_bn", config.fpn.norm)
        case "rpn":
            names = {"cls_logits": "rpn_cls", "bbox_pred": "rpn_reg"}
            conv = "rpn_conv" if config.rpn.num_convs == 1 else f"rpn_conv.{layer[-1]}.conv"
            return "rpn_head." + names.get(layer, conv)
        case "box_head" if layer in ("cls_score", "bbox_pred"):
            return BOX + stage + {"cls_score": "fc_cls", "bbox_pred": "fc_reg"}[layer]
        case "box_head" if layer.startswith("fc"):
            return f"{BOX}{stage}shared_fcs.{int(layer[2:]) - 6}"
        case "box_head":
            end = _of_module(layer, "bn", config.box_head.norm)
            return f"{BOX}{stage}shared_convs.{layer[-1]}.{end}"
    names = {"deconv": "upsample", "logits": "conv_logits"}
    if layer in names:
        return MASK + stage + names[layer]
    return f"{MASK}{stage}convs.{layer[-1]}." + _of_module(layer, "bn", config.mask_head.norm)


def _backbone_name(path: Path, norm: str) -> str:
    layer = path[-1].replace("bn", "gn") if norm == "group" else path[-1]
    return f"{BODY}{layer}" if len(path) == 2 else _block_name(path[1:], BODY, norm)


def _block_name(path: Path, body: str, norm: str) -> str:
    """Returns the name of a layer in a block, such as ``layer4_0``, ``conv1``."""
    layer = path[-1].replace("bn", "gn") if norm == "group" else path[-1]
    stage, block = path[0].removeprefix("layer").split("_")
    names = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    return f"{body}layer{stage}.{block}." + names.get(path[-1], layer)


def _of_module(layer: str, mark: str, norm: str) -> str:
    """Returns the name within a convolution with its norm."""
    return ("gn" if norm == "group" else "bn") if mark in layer else "conv"
