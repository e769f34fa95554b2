"""The names of Detectron2's Mask R-CNN, Cascade and Faster R-CNN with a ResNet or a ViT.

The arrays are those of PyTorch's layers. Some differ from torchvision's: background is the last
class, neither box deltas nor masks have rows for it, and the stem reads BGR images, as a rule.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig, ViTConfig
from maskrcnn_jax.weights import guess, torchvision, vit
from maskrcnn_jax.weights.guess import Guess
from maskrcnn_jax.weights.layout import Edit, Entry, Path
from maskrcnn_jax.weights.torchvision_resnet import COUNTER

WHOSE = "Detectron2's"
BODY = "backbone.bottom_up."
BODY_OF_ONE_MAP = "backbone."  # Of a network without a pyramid.
STEM = f"{BODY}stem.conv1.weight"
STEMS = STEM, f"{BODY_OF_ONE_MAP}stem.conv1.weight"
ROI = "roi_heads."
RES5 = f"{ROI}res5."
RPN = "proposal_generator.rpn_head."
CELLS = "proposal_generator.anchor_generator.cell_anchors."
PIXELS = ("pixel_mean", "pixel_std")
FEDERATED = f"{ROI}box_predictor.fed_loss_cls_weights"  # Powers of the frequencies of classes.
FEDERATED_CLASSES = 50  # Detectron2's default.
# The names of other networks, and what they are. The first that matches a name counts.
OTHERS = (
    (r".*\.conv2_offset\.", "a network with deformable convolutions"),
    (r"backbone\.bottom_up\.s1\.", "a RegNet"),
    (
        r"backbone\.bottom_up\.(blocks|patch_embed|layers\.)",
        "a network with a transformer backbone",
    ),
    (r"roi_heads\.keypoint_head\.", "a Keypoint R-CNN"),
    (r"roi_heads\.mask_head\.(coarse|point)|.*point_head\.", "a PointRend network"),
    (r"sem_seg_head\.", "a network for panoptic or semantic segmentation"),
    (r"head\.cls_subnet\.", "a RetinaNet"),
)
BACKGROUND_LAST = Edit(lambda x: np.roll(x, 1, axis=0), lambda x: np.roll(x, -1, axis=0))


def recognises(names: Iterable[str]) -> bool:
    """Tells whether a file has the names of Detectron2's detectors."""
    starts = "backbone.bottom_up.", "backbone.stem.", "proposal_generator."
    return any(name.startswith(starts) for name in names)


def is_backbone(names: Iterable[str]) -> bool:
    """Tells whether a file has the names of a ResNet alone, such as ``stem.conv1.weight``."""
    return "stem.conv1.weight" in names


def infer(state: Mapping[str, np.ndarray], about: Mapping[str, str]) -> Guess:
    """Infers the network of a file from its names and shapes, and a preset for all else.

    Raises:
        ValueError: It is a network of another kind; the message names it.
    """
    check_kind(state)
    config = _preset(state)
    if FEDERATED in state:
        _set_federated(config.model, state[FEDERATED])
    if isinstance(config.model.backbone, ViTConfig):
        reason = "assumed: RGB pixels divided by their deviation, as in Detectron2's ViTDet"
        return Guess(config, coco(config.model), False, (reason,))
    is_bgr, reason = _assume_input(config, state)
    reasons = [reason]
    if reason := _read_anchors(config, state):
        reasons.append(reason)
    return Guess(config, coco(config.model), is_bgr, tuple(reasons))


def check_kind(state: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError, with the kind, if the names are of another network."""
    for pattern, kind in OTHERS:
        if any(re.match(pattern, name) for name in state):
            raise ValueError(f"it is {kind}, and only ResNets with a feature pyramid are loaded")


def _body(state: Mapping[str, np.ndarray]) -> str:
    """Returns the start of the names of the backbone."""
    return BODY if STEM in state else BODY_OF_ONE_MAP


def _preset(state: Mapping[str, np.ndarray]) -> Config:
    """Returns the preset that has the norms and heads of a file, with its sizes."""
    if any(name.startswith(vit.NET) for name in state):
        config = presets.detectron2_vitdet_b()
        vit.set_sizes(config.model.backbone, state)
        return _with_heads(config, state)
    if STEMS[1] in state:
        return _preset_of_one_map(state)
    # The stem of a model with trained norms may be frozen, the last stage is not.
    match norm_of(state, f"{BODY}res5.0.conv1.norm"):
        case "group":
            config = presets.detectron2_r50_fpn_gn()
        case "batch" if f"{RPN}conv.conv1.weight" in state:
            config = presets.detectron2_r50_fpn_lsj()
        case "batch":
            config = presets.detectron2_r50_fpn_syncbn()
        case _:
            config = presets.detectron2_r50_fpn()
    model = config.model
    model.backbone.depth = guess.resnet_depth(
        state, rf"{re.escape(BODY)}res([2-5])\.(\d{{1,3}})\.(conv3\.)?"
    )
    config.model.fpn.norm = norm_of(state, "backbone.fpn_lateral2.norm")
    config = _with_heads(config, state)
    first = (state.get(f"{BODY}res2.0.conv{i}.weight") for i in (1, 2))
    guess.set_groups(config.model.backbone, *first)
    return config


def _with_heads(config: Config, state: Mapping[str, np.ndarray]) -> Config:
    """Sets the numbers of layers and of channels of all but the backbone."""
    model = config.model
    group = "layer" if isinstance(model.backbone, ViTConfig) else "group"
    if guess.num_stages(state, rf"{re.escape(ROI)}box_predictor\.(\d)\."):
        presets.use_cascade(config)
    stage = "" if model.cascade is None else ".0"
    model.num_classes = num_classes(state) or model.num_classes
    model.rpn.num_convs = 1 + max(_numbers(state, rf"{re.escape(RPN)}conv\.conv(\d)\."), default=0)
    box_head = re.escape(f"{ROI}box_head{stage}")
    model.box_head.num_convs = max(_numbers(state, rf"{box_head}\.conv(\d)\."), default=0)
    model.box_head.num_layers = max(_numbers(state, rf"{box_head}\.fc(\d)\."), default=0)
    norm = norm_of(state, f"{ROI}box_head{stage}.conv1.norm")
    model.box_head.norm = norm.replace("group", group)
    if not any(each.startswith(f"{ROI}mask_head.") for each in state):
        model.mask_head = None
    else:
        convs = _numbers(state, rf"{re.escape(ROI)}mask_head\.mask_fcn(\d)\.")
        model.mask_head.num_convs = max(convs, default=0)
        norm = norm_of(state, f"{ROI}mask_head.mask_fcn1.norm")
        model.mask_head.norm = norm.replace("group", group)
    guess.set_widths(model, state, name)
    guess.set_class_agnostic(model, state, name)
    return config


def _preset_of_one_map(state: Mapping[str, np.ndarray]) -> Config:
    """Returns the preset of a C4 network, or of a DC5 network, with the sizes of a file."""
    is_c4, body = any(each.startswith(RES5) for each in state), BODY_OF_ONE_MAP
    config = presets.detectron2_r50_c4() if is_c4 else presets.detectron2_r50_dc5()
    names = {each.replace(RES5, f"{body}res5."): array for each, array in state.items()}
    backbone = config.model.backbone
    backbone.norm = norm_of(names, f"{body}res5.0.conv1.norm")
    pattern = rf"{re.escape(body)}res([2-5])\.(\d{{1,3}})\.(conv3\.)?"
    backbone.depth = guess.resnet_depth(names, pattern)
    guess.set_groups(backbone, *(names.get(f"{body}res2.0.conv{i}.weight") for i in (1, 2)))
    return _with_heads(config, state)


def _set_federated(model: ModelConfig, weights: np.ndarray) -> None:
    """Sets sigmoid scores and the federated loss by the weights of its draw."""
    head, weights = model.box_head, np.asarray(weights, np.float64)
    if weights.shape != (model.num_classes - 1,) or not (weights >= 0).all():
        raise ValueError(
            f"{FEDERATED} must have a number from 0 for each of {model.num_classes - 1} classes"
        )
    head.classifier, head.federated_classes = "sigmoid", FEDERATED_CLASSES
    head.class_frequencies = tuple((weights ** (1 / head.federated_power)).tolist())


def extras(config: ModelConfig) -> dict[str, np.ndarray]:
    """Returns the arrays of a file that no variable holds: the weights of the federated loss."""
    head = config.box_head
    if head.federated_classes is None or not head.class_frequencies:
        return {}
    weights = np.array(head.class_frequencies, np.float64) ** head.federated_power
    return {FEDERATED: weights.astype(np.float32)}


def norm_of(state: Mapping[str, np.ndarray], layer: str) -> str:
    """Returns the kind of norm that a layer has, by its arrays; "none" without any."""
    if f"{layer}.weight" not in state:
        return "none"
    if f"{layer}.running_mean" not in state:
        return "group"
    return "batch" if f"{layer}.{COUNTER}" in state else "frozen_batch"


def _numbers(names: Iterable[str], pattern: str) -> list[int]:
    return [int(match[1]) for each in names if (match := re.match(pattern, each))]


def _assume_input(config: Config, state: Mapping[str, np.ndarray]) -> tuple[bool, str]:
    """Sets the pixel statistics and the place of the stride.

    Returns:
        Whether the channels are in the order BGR, and the reason.
    """
    if found := _read_pixels(config, state):
        return found
    stem = f"{_body(state)}stem.conv1"
    variance = state.get(f"{stem}.norm.running_var")
    ratio = guess.input_ratio(state.get(f"{stem}.weight"), variance)
    if ratio is None:
        where = "1x1" if config.model.backbone.stride_in_1x1 else "3x3"
        return True, (
            f"assumed: BGR pixels of 0 to 255 less their mean, strides in the {where}: the model "
            "zoo's rule for group norm, which has no statistic that could tell"
        )
    if ratio >= guess.NORMALISED_BELOW:
        return True, (
            "assumed: BGR pixels of 0 to 255 less their mean, strides in the 1x1, as in the model "
            f"zoo; the variances of the stem are {ratio:.0f} times its squared weights"
        )
    presets.use_torchvision_input(config.model)
    if presets.reads_bgr(config.model):
        return True, (
            "assumed: BGR pixels divided by their deviation, strides in the 3x3, as for the "
            "ResNeXt-101 32x8d of the model zoo; the variances of the stem are "
            f"{ratio:.1f} times its squared weights"
        )
    return False, (
        "assumed: RGB pixels divided by their deviation, strides in the 3x3, as for backbones of "
        f"torchvision; the variances of the stem are {ratio:.1f} times its squared weights, "
        "thousands in the model zoo"
    )


def _read_pixels(config: Config, state: Mapping[str, np.ndarray]) -> tuple[bool, str] | None:
    """Takes the pixel statistics that old files carry; returns as `_assume_input`, or None.

    Photographs have less blue than red, which tells the order. A network whose pixels are divided
    by a deviation has its strides in the 3x3.
    """
    found = [state.get(each) for each in PIXELS]
    if any(x is None or x.size != 3 for x in found):
        return None
    is_bgr = bool(found[0].reshape(-1)[0] <= found[0].reshape(-1)[2])
    step = -1 if is_bgr else 1
    mean, std = (tuple(float(y) / 255 for y in x.reshape(-1)[::step]) for x in found)
    if not all(y > 0 for y in std):
        raise ValueError(f"its pixel_std is {found[1].reshape(-1)}, expected positive numbers")
    config.model.image_mean, config.model.image_std = mean, std
    if max(std) >= presets.LARGEST_STD_OF_CAFFE:
        config.model.backbone.stride_in_1x1 = False
    where = "1x1" if config.model.backbone.stride_in_1x1 else "3x3"
    order = "BGR" if is_bgr else "RGB"
    reason = f"{order} pixels with the statistics in the file; assumed: strides in the {where}"
    return is_bgr, reason


def _read_anchors(config: Config, state: Mapping[str, np.ndarray]) -> str | None:
    """Takes the anchors that old files carry; returns a line for the report."""
    cells = {i: state[f"{CELLS}{i}"] for i in range(5) if f"{CELLS}{i}" in state}
    if len(cells) != 5:
        return None
    rpn = config.model.rpn
    rpn.anchor_sizes, rpn.aspect_ratios, rpn.round_anchors = guess.anchors(cells)
    return f"anchors as in the file: sizes {rpn.anchor_sizes}, ratios {rpn.aspect_ratios}"


def coco(config: ModelConfig) -> Categories | None:
    """Returns COCO's 80 categories if the number of classes is that of COCO; otherwise None."""
    return Categories.coco() if config.num_classes == presets.COCO_80_CLASSES else None


def num_classes(arrays: Mapping[str, np.ndarray]) -> int | None:
    """Returns the number of classes, including background; None if the classifier is missing."""
    names = f"{ROI}box_predictor.cls_score.bias", f"{ROI}box_predictor.0.cls_score.bias"
    return next((arrays[each].size for each in names if each in arrays), None)


def present(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Drops batch counters, and what are settings here, such as anchors and pixel statistics."""
    dropped = (f".{COUNTER}", *PIXELS, FEDERATED)
    kept = (each for each in state if not each.endswith(dropped) and not each.startswith(CELLS))
    return {each: np.asarray(state[each]) for each in kept}, {}


def entries(config: ModelConfig) -> Iterator[Entry]:
    """Yields the table of a model, in torchvision's order of modules.

    Raises:
        ValueError: Detectron2 has no such backbone.
    """
    if isinstance(config.backbone, ConvNeXtConfig):
        raise ValueError("Detectron2 has no model with torchvision's ConvNeXt")
    for entry in torchvision.layers(config):
        yield renamed(entry, name(entry.path[1:-1], config))


def renamed(entry: Entry, layer: str) -> Entry:
    """Returns the entry of an array by another name of its layer, with background last."""
    entry = entry._replace(name=f"{layer}.{entry.name.rpartition('.')[2]}")
    match entry.path[1:-1]:
        case ("box_head", *_, "cls_score"):
            return entry._replace(edit=BACKGROUND_LAST)
        case ("box_head", *_, "bbox_pred") if entry.shape[0] > 4:
            return _without_background(entry, 4)
        case ("mask_head", *_, "logits") if entry.shape[0] > 1:
            return _without_background(entry, 1)
    return entry  # Boxes and masks for all classes have no rows of background.


def _without_background(entry: Entry, rows: int) -> Entry:
    """Drops the rows of background, the first, from an entry; they are zeros here."""

    def read(array: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((rows, *array.shape[1:]), array.dtype), array])

    shape = (entry.shape[0] - rows, *entry.shape[1:])
    return entry._replace(shape=shape, edit=Edit(read, lambda x: x[rows:]))


def name(path: Path, config: ModelConfig) -> str:
    """Returns the name of a layer by its path among our modules."""
    part, layer = path[0], path[-1]
    stage = f".{path[1][-1]}" if len(path) == 3 else ""  # Of a head of a cascade.
    match part:
        case "backbone" if isinstance(config.backbone, ViTConfig):
            return vit.name(path)
        case "backbone":
            return _backbone_name(path, BODY if config.fpn is not None else BODY_OF_ONE_MAP)
        case "box_head" if path[1] == "res5":
            return _block_name(path[2:], ROI)
        case "fpn" if isinstance(config.backbone, ViTConfig):
            return vit.pyramid_name(layer)
        case "fpn":
            return f"backbone.fpn_{layer.removesuffix('_bn')}" + _norm(layer, "_bn")
        case "rpn":
            names = {"cls_logits": "objectness_logits", "bbox_pred": "anchor_deltas"}
            conv = "conv" if config.rpn.num_convs == 1 else f"conv.{layer}"
            return RPN + names.get(layer, conv)
        case "box_head" if layer in ("cls_score", "bbox_pred"):
            return f"{ROI}box_predictor{stage}.{layer}"
        case "box_head" if layer.startswith("fc"):
            return f"{ROI}box_head{stage}.fc{int(layer[2:]) - 5}"
    names = {"deconv": "deconv", "logits": "predictor"}
    kind = "conv" if part == "box_head" else "mask_fcn"
    number = int(layer[-1]) + 1 if layer[-1].isdigit() else 0
    return f"{ROI}{part}{stage}." + names.get(layer, f"{kind}{number}{_norm(layer, 'bn')}")


def _backbone_name(path: Path, body: str) -> str:
    if len(path) == 2:
        return f"{body}stem.conv1" + ("" if path[-1] == "conv1" else ".norm")
    return _block_name(path[1:], body)


def _block_name(path: Path, body: str) -> str:
    """Returns the name of a layer in a block, such as ``layer4_0``, ``conv1``."""
    layer = path[-1]
    stage, block = path[0].removeprefix("layer").split("_")
    block_name = f"{body}res{int(stage) + 1}.{block}"
    if layer.startswith("downsample"):
        return f"{block_name}.shortcut" + _norm(layer, "_bn")
    return f"{block_name}.conv{layer[-1]}" + _norm(layer, "bn")


def _norm(layer: str, mark: str) -> str:
    """Returns the end of the name of a norm, which belongs to its convolution."""
    return ".norm" if mark in layer else ""
