"""The names of Caffe2's ResNets, and of the detectors of the first Detectron.

Detectron2 starts from such backbones. In a detector background is the first class, as in ours. Some
files have folded the statistics of a norm into its scale and bias.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.modules.resnet import DEPTHS
from maskrcnn_jax.weights import detectron2, guess, torchvision
from maskrcnn_jax.weights.guess import Guess
from maskrcnn_jax.weights.layout import Entry, Path

WHOSE = "Detectron 1's"
STEM = "conv1_w"
STEMS = (STEM,)
PATTERN = r"res([2-5])_(\d{1,3})_branch2[abc]"
# Detectron 1 divides by nothing and subtracts this, in the order RGB.
IMAGE_MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
LEAVES = {"weight": "w", "bias": "b"}
NORM_LEAVES = {
    "weight": "s",
    "bias": "b",
    "running_mean": "running_mean",
    "running_var": "running_var",
}
# Other names of the arrays of a norm.
RENAMED = {
    "_bn_gamma": "_bn_s",
    "_bn_beta": "_bn_b",
    "_bn_rm": "_bn_running_mean",
    "_bn_riv": "_bn_running_var",
}
MOMENTUM = "_momentum"  # The end of arrays of the optimizer.
UNUSED = ("lr", "conv1_b", "fc1000_w", "fc1000_b", "pred_w", "pred_b")


def recognises(names: Iterable[str]) -> bool:
    """Tells whether a file has the names of a detector of Detectron 1."""
    names = set(names)
    return "cls_score_w" in names and is_backbone(names)


def is_backbone(names: Iterable[str]) -> bool:
    """Tells whether a file has the names of Caffe2's ResNets."""
    return any(re.match(PATTERN, name) for name in names)


def infer(state: Mapping[str, np.ndarray], about: Mapping[str, str]) -> Guess:
    """Infers the network of a file from its names and shapes.

    Raises:
        ValueError: It is a network of another kind; the message names it.
    """
    if "fpn_res5_2_sum_w" not in state:
        raise ValueError("it is of Detectron 1 and has no feature pyramid, which is not loaded")
    if any(name.startswith("kps_score") for name in state):
        raise ValueError("it is a Keypoint R-CNN, and only ResNets with a pyramid are loaded")
    has_norms = "res2_0_branch2a_gn_s" in state
    config = presets.detectron2_r50_fpn_gn() if has_norms else presets.detectron2_r50_fpn()
    model = config.model
    model.backbone.depth = depth(state)
    model.backbone.stride_in_1x1 = not has_norms
    model.image_mean = IMAGE_MEAN
    model.roi.aligned, model.roi.sampling_ratio = False, 2
    model.num_classes = num_classes(state) or model.num_classes
    convs = [int(match[1]) for x in state if (match := re.fullmatch(r"head_conv(\d)_w", x))]
    model.box_head.num_convs = max(convs, default=0)
    model.box_head.num_layers = 1 if convs else 2
    if not any("mask" in name for name in state):
        model.mask_head = None
    kernels = {x.removesuffix("_w") + ".weight": state[x] for x in state if x.endswith("_w")}
    guess.set_widths(model, kernels, name)
    guess.set_groups(model.backbone, *(state.get(f"res2_0_branch2{x}_w") for x in "ab"))
    if model.backbone.groups > 1:  # Its backbone is FAIR's, which divided the pixels.
        presets.use_torchvision_input(model)
    reasons = (
        "assumed: BGR pixels of 0 to 255 less their mean, as in Detectron 1. Its boxes count one "
        "pixel more than their difference, which is not imitated",
    )
    return Guess(config, detectron2.coco(model), True, reasons)


def depth(state: Iterable[str]) -> int:
    """Infers the depth of the ResNet. Raises ValueError if the blocks are those of none."""
    blocks = [0, 0, 0, 0]
    for each in state:
        if match := re.match(PATTERN, each):
            stage = int(match[1]) - 2
            blocks[stage] = max(blocks[stage], int(match[2]) + 1)
    for found, (sizes, has_bottlenecks) in DEPTHS.items():
        if has_bottlenecks and sizes == tuple(blocks):
            return found
    raise ValueError("its backbone is no ResNet of 50, 101 or 152 layers")


def num_classes(arrays: Mapping[str, np.ndarray]) -> int | None:
    """Returns the number of classes, including background; None if the classifier is missing."""
    bias = arrays.get("cls_score_b")
    return None if bias is None else bias.size


def present(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Drops what is not of the network, and undoes the folding of statistics into norms."""
    arrays, renamed = {}, {}
    for each, array in state.items():
        if each.endswith(MOMENTUM) or each in UNUSED:
            continue
        end = next((end for end in RENAMED if each.endswith(end)), None)
        if end is not None:
            renamed[each] = each.removesuffix(end) + RENAMED[end]
        arrays[renamed.get(each, each)] = np.asarray(array)
    for each in [x.removesuffix("_s") for x in arrays if x.endswith("_bn_s")]:
        ones = np.ones(arrays[f"{each}_s"].shape, np.float32)
        arrays.setdefault(f"{each}_running_mean", 0 * ones)
        # With the eps of the norm the variance is 1.
        arrays.setdefault(f"{each}_running_var", ones - np.float32(ResNetConfig().norm_eps))
    return arrays, renamed


def entries(config: ModelConfig) -> Iterator[Entry]:
    """Yields the table of a model, in torchvision's order of modules.

    Raises:
        ValueError: The backbone is no ResNet.
    """
    if not isinstance(config.backbone, ResNetConfig):
        raise ValueError("models of Detectron 1 are read with a ResNet only")
    for entry in torchvision.layers(config):
        yield renamed_entry(entry, config)


def renamed_entry(entry: Entry, config: ModelConfig) -> Entry:
    """Returns the entry of an array by its name in Caffe2."""
    layer, leaf = name(entry.path[1:-1], config), entry.name.rpartition(".")[2]
    is_norm = layer.endswith(("_bn", "_gn"))
    return entry._replace(name=f"{layer}_{(NORM_LEAVES if is_norm else LEAVES)[leaf]}")


def name(path: Path, config: ModelConfig) -> str:
    """Returns the name of a layer by its path among our modules."""
    part, layer = path[0], path[-1]
    if part == "backbone":
        return _backbone_name(path, config.backbone.norm)
    norm = "_gn" if "bn" in layer else ""
    if part == "fpn":
        level = int(layer.removesuffix("_bn")[-1])
        block = f"res{level}_{DEPTHS[config.backbone.depth][0][level - 2] - 1}_sum"
        if layer.startswith("output"):
            return f"fpn_{block}{norm}"
        return f"fpn_inner_{block}" + ("" if level == 5 else "_lateral") + norm
    names = {("rpn", "conv0"): "conv_rpn_fpn2", ("rpn", "cls_logits"): "rpn_cls_logits_fpn2"}
    names |= {("rpn", "bbox_pred"): "rpn_bbox_pred_fpn2", ("mask_head", "deconv"): "conv5_mask"}
    names |= {("mask_head", "logits"): "mask_fcn_logits"}
    if path in names:
        return names[path]
    if not layer.startswith(("conv", "bn")):
        return layer  # fc6, fc7, cls_score, bbox_pred.
    conv = "head_conv" if part == "box_head" else "_[mask]_fcn"
    return f"{conv}{int(layer[-1]) + 1}{norm}"


def _backbone_name(path: Path, norm: str) -> str:
    layer, end = path[-1], "_gn" if norm == "group" else "_bn"
    if len(path) == 2 and layer == "bn1":
        return "conv1_gn" if norm == "group" else "res_conv1_bn"
    if len(path) == 2:
        return layer
    stage, block = path[1].removeprefix("layer").split("_")
    branch = "branch1" if layer.startswith("downsample") else f"branch2{'abc'[int(layer[-1]) - 1]}"
    return f"res{int(stage) + 1}_{block}_{branch}" + (end if "bn" in layer else "")
