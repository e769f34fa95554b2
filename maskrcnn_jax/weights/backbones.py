"""Loads pretrained backbones: ResNets of torchvision, Detectron2, MMDetection, Caffe2, or ours.

And MAE's vision transformers.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig, ResNetConfig, ViTConfig
from maskrcnn_jax.weights import (
    convnext,
    detectron1,
    detectron2,
    download,
    files,
    guess,
    layout,
    mmdetection,
    own,
    prefixes,
    report,
    stem,
    torchvision,
    torchvision_resnet,
    vit,
)

# Arrays by the paths of their variables, and lines about the first convolution.
Loaded = tuple[dict[str, np.ndarray], tuple[str, ...]]

DETECTORS = (torchvision, detectron2, mmdetection, detectron1)
GROUP_NORM = "gn1.weight"  # The name that MMDetection gives the first norm then.


def load(
    weights: str,
    variables: dict[str, Any],
    config: ModelConfig,
    tell: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Replaces the variables of the backbone by the arrays of a file.

    Args:
        weights: A file, or "IMAGENET1K_V1" or "IMAGENET1K_V2" for torchvision's weights of the
            config's depth. A file with torchvision's names must be complete; its classifier is
            dropped. A file with our names may lack variables, which then keep their values. The
            backbones of Detectron2's model zoo (``R-50.pkl``) and of MMDetection are read too,
            and MAE's for a ViT, whose relative positions keep their values.
        variables: The initialised variables of the whole model.
        config: The config of the model.
        tell: Called with lines of text if the model has another number of channels than three; see
            `stem.adapt`.

    Returns:
        The variables of the whole model.

    Raises:
        OSError: The file does not exist or cannot be downloaded.
        ValueError: The file is broken or does not fit the backbone; the message lists every array
            that is wrong.
    """
    path = _path(weights, _architecture(config.backbone))
    found = prefixes.without(files.read(path).arrays, _is_known)
    arrays = _without_prefix(found)
    if any(family.recognises(found) for family in DETECTORS):
        raise ValueError(f"{path} holds a whole detector: give it as config.weights")
    if own.recognises(arrays):
        loaded, told = _own(path, arrays, variables, config)
    elif _is_convnext(arrays) or isinstance(config.backbone, ConvNeXtConfig):
        loaded, told = _from_convnext(path, arrays, config)
    elif vit.is_mae(arrays) or isinstance(config.backbone, ViTConfig):
        loaded, told = _from_mae(path, arrays, config)
    elif detectron1.is_backbone(arrays) or detectron2.is_backbone(arrays):
        loaded, told = _from_detectron(path, arrays, config)
    else:
        loaded, told = _from_torchvision(path, arrays, config)
    for line in told:
        tell(line)
    flat = traverse_util.flatten_dict(variables, sep="/", keep_empty_nodes=True)
    return traverse_util.unflatten_dict(flat | loaded, sep="/")


def _architecture(backbone: ResNetConfig | ConvNeXtConfig | ViTConfig) -> str:
    """Names a backbone for messages, and as torchvision does if it has such a network."""
    match backbone:
        case ViTConfig():
            return vit.describe(backbone)
        case ConvNeXtConfig():
            return convnext.architecture(backbone)
    return torchvision_resnet.architecture(backbone)


def _path(weights: str, architecture: str) -> Path:
    """Returns the path of a weight file; downloads it first if it is a released one."""
    versions = {
        version: file_name
        for (name, version), file_name in download.BACKBONES.items()
        if name == architecture
    }
    if weights in versions:
        return download.fetch(versions[weights])
    if not Path(weights).exists():
        names = " or ".join(f'"{version}"' for version in versions) or "none"
        raise FileNotFoundError(
            f"backbone weights {weights!r}: no such file, and for {architecture} there is {names}"
        )
    return Path(weights)


def _is_convnext(names: Mapping[str, np.ndarray]) -> bool:
    return any(convnext.recognises(names, prefix) for prefix in ("", convnext.FEATURES))


def _from_convnext(path: Path, arrays: Mapping[str, np.ndarray], config: ModelConfig) -> Loaded:
    """Maps torchvision's ConvNeXts to variables."""
    ours, named = config.backbone, convnext.backbone_of(arrays)
    found, kind = ConvNeXtConfig(), "no ConvNeXt"
    if _is_convnext(arrays):
        convnext.set_sizes(found, named, "")
        kind = convnext.architecture(found)
    if kind != _architecture(ours):
        advice = f"ConvNeXtConfig(depths={found.depths}, width={found.width}) fits it"
        raise ValueError(
            f"{path} holds {kind}, and config.model.backbone is {_architecture(ours)}"
            + (f": {advice}" if _is_convnext(arrays) else "")
        )
    return _arranged(path, named, list(convnext.entries(config)), config, ModelConfig().image_std)


def _from_mae(path: Path, arrays: Mapping[str, np.ndarray], config: ModelConfig) -> Loaded:
    """Maps MAE's encoder to variables; it has no relative positions and no pyramid."""
    found = vit.described(arrays)
    ours = _architecture(config.backbone)
    if found != ours:
        raise ValueError(
            f"{path} holds {found}, and config.model.backbone is {ours}: {vit.advice(found)}"
        )
    named = vit.from_mae(arrays)
    table = [x for x in vit.entries(config) if vit.is_pretrained(x.name)]
    return _arranged(path, named, table, config, ModelConfig().image_std)


def _own(
    path: Path, arrays: Mapping[str, np.ndarray], variables: dict[str, Any], config: ModelConfig
) -> Loaded:
    """Maps arrays with our names to variables, also between frozen and trained norms."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    names = {name.partition("/")[2]: name for name in flat if name.split("/")[1] == "backbone"}
    short, _ = own.present(arrays)
    axes = (0, 1, 2, 3)
    kernel = layout.Entry("/".join(stem.PATH[1:]), stem.PATH, axes, axes, axes, axes)
    told = stem.adapt(short, [kernel], config, config.image_std)
    expected = {name: flat[names[name]].shape for name in names if name in short}
    layout.check_fit(short, expected, f"{path} does not fit the backbone")
    return {names[name]: array.astype(np.float32) for name, array in short.items()}, told


def _from_torchvision(path: Path, arrays: Mapping[str, np.ndarray], config: ModelConfig) -> Loaded:
    """Maps arrays with torchvision's names, or MMDetection's for group norm, to variables."""
    found = "group" if GROUP_NORM in arrays else "batch"
    norm = config.backbone.norm
    if (found == "group") != (norm == "group"):
        raise ValueError(
            f'{path} was trained with {found} norm, config.model.backbone.norm is "{norm}"'
        )
    depth = torchvision_resnet.resnet_depth(arrays)
    _check_kind(path, depth, arrays, "layer1.0.conv{}.weight", config)
    table = _table(config)
    if found == "group":
        table = [detectron2.renamed(x, mmdetection.name(x.path[1:-1], config)) for x in table]
        table = [x._replace(name=x.name.removeprefix(mmdetection.BODY)) for x in table]
    arrays = torchvision_resnet.present(arrays)
    std = _turn_to_rgb(path, arrays, "conv1.weight", "bn1.running_var", config)
    return _arranged(path, arrays, table, config, std)


def _table(config: ModelConfig) -> list[layout.Entry]:
    """Returns the table of a whole ResNet, though the last stage may be part of the heads."""
    whole = dataclasses.replace(config.backbone, last_level=5)
    return list(torchvision_resnet.entries(dataclasses.replace(config, backbone=whole)))


def _placed(entry: layout.Entry, config: ModelConfig) -> layout.Entry:
    """Returns an entry of the last stage of a C4 network with its path in the heads."""
    collection, _, layer, *rest = entry.path
    if not (config.box_head.res5 and layer.startswith("layer4")):
        return entry
    return entry._replace(path=(collection, "box_head", "res5", layer, *rest))


def _arranged(
    path: Path,
    arrays: dict[str, np.ndarray],
    table: Sequence[layout.Entry],
    config: ModelConfig,
    std: Sequence[float],
) -> Loaded:
    """Adapts the first convolution to the channels of the model, and maps arrays to variables."""
    table = [_placed(entry, config) for entry in table]
    told = stem.adapt(arrays, table, config, std)
    layout.check_fit(arrays, layout.shapes(table), f"{path} does not fit the backbone")
    return traverse_util.flatten_dict(layout.arrange(arrays, table), sep="/"), told


def _check_kind(
    path: Path,
    depth: int | None,
    arrays: Mapping[str, np.ndarray],
    kernel: str,
    config: ModelConfig,
) -> None:
    """Raises ValueError, which says what to set, if a file holds another ResNet than the config's.

    ``kernel`` names the kernels of the first block, with {} for their number, 1 or 2.
    """
    ours = config.backbone
    found = dataclasses.replace(ours, depth=depth or ours.depth)
    guess.set_groups(found, *(arrays.get(kernel.format(i)) for i in (1, 2)))
    if report.describe_backbone(found) != report.describe_backbone(ours):
        sizes = f"depth={found.depth}, groups={found.groups}"
        raise ValueError(
            f"{path} holds a {report.describe_backbone(found)}, and config.model.backbone is a "
            f"{report.describe_backbone(ours)}: for the file, set its {sizes} and "
            f"width_per_group={found.width_per_group}"
        )


def _is_known(names: Mapping[str, np.ndarray]) -> bool:
    """Whether names are those of a backbone or of a whole detector, without a prefix."""
    is_classifier = any(name.startswith(("layer1.", "backbone.layer1.")) for name in names)
    is_classifier |= vit.is_mae(names) or _is_convnext(names)
    is_backbone = detectron1.is_backbone(names) or detectron2.is_backbone(names)
    is_whole = any(family.recognises(names) for family in (own, *DETECTORS))
    return is_classifier or is_backbone or is_whole


def _without_prefix(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns the backbone of a classifier of MMPreTrain by torchvision's names; others as is."""
    if not any(name.startswith("backbone.layer1.") for name in arrays):
        return arrays
    kept = (name for name in arrays if not name.startswith("head."))
    return {name.removeprefix("backbone."): arrays[name] for name in kept}


def _turn_to_rgb(
    path: Path, arrays: dict[str, np.ndarray], name: str, variance: str | None, config: ModelConfig
) -> Sequence[float]:
    """Reverses the channels of a stem that learned from pixels of 0 to 255: Caffe's read BGR.

    ``variance`` names the statistics that tell such a stem. Without them it is taken for Caffe's,
    and so is group norm, whose released backbones are. Returns the ``image_std`` that it learned
    with. Raises ValueError if a config of three channels has other pixels.
    """
    kernel = arrays.get(name)
    if kernel is None or kernel.ndim != 4:
        return config.image_std  # A misfit, which is named later.
    if name != "conv1.weight" and presets.is_of_fair(config.backbone):
        arrays[name] = kernel[:, ::-1]  # FAIR's ResNeXt, which divided its pixels.
        return ModelConfig().image_std
    ratio = guess.input_ratio(kernel, arrays[variance]) if variance in arrays else np.inf
    if ratio is None or ratio < guess.NORMALISED_BELOW:
        return ModelConfig().image_std
    if len(config.image_std) == 3 and max(config.image_std) > presets.LARGEST_STD_OF_CAFFE:
        raise ValueError(
            f"{path} learned from BGR pixels of 0 to 255 less their mean: set model.image_mean, "
            "model.image_std and model.backbone.stride_in_1x1 as presets.detectron2_r50_fpn does"
        )
    arrays[name] = kernel[:, ::-1]
    return presets.CAFFE_STD


def _from_detectron(path: Path, arrays: Mapping[str, np.ndarray], config: ModelConfig) -> Loaded:
    """Maps the arrays of a backbone of Caffe2, or with Detectron2's names, to variables."""
    table = _table(config)
    if detectron1.is_backbone(arrays):
        named, _ = detectron1.present(arrays)
        first = {f"conv{i}": named.get(f"res2_0_branch2{x}_w") for i, x in ((1, "a"), (2, "b"))}
        depth = torchvision_resnet.matched_depth(named, r"res([2-5])_(\d{1,3})_branch2(c)?")
        _check_kind(path, depth, first, "conv{}", config)
        table = [detectron1.renamed_entry(entry, config) for entry in table]
        kernel, variance = detectron1.STEM, None
    else:
        named, _ = detectron2.present(arrays)
        named = {x: array for x, array in named.items() if x.startswith(("stem.", "res"))}
        depth = torchvision_resnet.matched_depth(named, r"res([2-5])\.(\d{1,3})\.(conv3\.)?")
        _check_kind(path, depth, named, "res2.0.conv{}.weight", config)
        table = [detectron2.renamed(x, detectron2.name(x.path[1:-1], config)) for x in table]
        for body in (detectron2.BODY, detectron2.BODY_OF_ONE_MAP):
            table = [x._replace(name=x.name.removeprefix(body)) for x in table]
        kernel, variance = "stem.conv1.weight", "stem.conv1.norm.running_var"
    std = _turn_to_rgb(path, named, kernel, variance, config)
    return _arranged(path, named, table, config, std)
