"""Loads pretrained backbones: ResNets of torchvision, Detectron2, MMDetection, Caffe2, or ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from maskrcnn_jax import presets
from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.weights import (
    detectron1,
    detectron2,
    download,
    files,
    guess,
    layout,
    mmdetection,
    own,
    prefixes,
    torchvision,
    torchvision_resnet,
)

DETECTORS = (torchvision, detectron2, mmdetection, detectron1)
GROUP_NORM = "gn1.weight"  # The name that MMDetection gives the first norm then.


def load(weights: str, variables: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Replaces the variables of the backbone by the arrays of a file.

    Args:
        weights: A file, or "IMAGENET1K_V1" or "IMAGENET1K_V2" for torchvision's weights of the
            config's depth. A file with torchvision's names must be complete; its classifier is
            dropped. A file with our names may lack variables, which then keep their values. The
            backbones of Detectron2's model zoo (``R-50.pkl``) and of MMDetection are read too.
        variables: The initialised variables of the whole model.
        config: The config of the model.

    Returns:
        The variables of the whole model.

    Raises:
        OSError: The file does not exist or cannot be downloaded.
        ValueError: The file is broken or does not fit the backbone; the message lists every array
            that is wrong.
    """
    path = _path(weights, config.backbone.depth)
    found = prefixes.without(files.read(path).arrays, _is_known)
    arrays = _without_prefix(found)
    if any(family.recognises(found) for family in DETECTORS):
        raise ValueError(f"{path} holds a whole detector: give it as config.weights")
    if own.recognises(arrays):
        loaded = _own(path, arrays, variables)
    elif detectron1.is_backbone(arrays) or detectron2.is_backbone(arrays):
        loaded = _from_detectron(path, arrays, config)
    else:
        loaded = _from_torchvision(path, arrays, config)
    flat = traverse_util.flatten_dict(variables, sep="/", keep_empty_nodes=True)
    return traverse_util.unflatten_dict(flat | loaded, sep="/")


def _path(weights: str, depth: int) -> Path:
    """Returns the path of a weight file; downloads it first if it is a released one."""
    versions = {
        version: file_name
        for (its_depth, version), file_name in download.BACKBONES.items()
        if its_depth == depth
    }
    if weights in versions:
        return download.fetch(versions[weights])
    if not Path(weights).exists():
        names = " or ".join(f'"{version}"' for version in versions)
        raise FileNotFoundError(
            f"backbone weights {weights!r}: no such file, and for ResNet-{depth} there is {names}"
        )
    return Path(weights)


def _own(
    path: Path, arrays: Mapping[str, np.ndarray], variables: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Maps arrays with our names to variables, also between frozen and trained norms."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    names = {name.partition("/")[2]: name for name in flat if name.split("/")[1] == "backbone"}
    short, _ = own.present(arrays)
    expected = {name: flat[names[name]].shape for name in names if name in short}
    layout.check_fit(short, expected, f"{path} does not fit the backbone")
    return {names[name]: array.astype(np.float32) for name, array in short.items()}


def _from_torchvision(
    path: Path, arrays: Mapping[str, np.ndarray], config: ModelConfig
) -> dict[str, np.ndarray]:
    """Maps arrays with torchvision's names, or MMDetection's for group norm, to variables."""
    found = "group" if GROUP_NORM in arrays else "batch"
    norm = config.backbone.norm
    if (found == "group") != (norm == "group"):
        raise ValueError(
            f'{path} was trained with {found} norm, config.model.backbone.norm is "{norm}"'
        )
    depth = torchvision_resnet.resnet_depth(arrays)
    if depth not in (None, config.backbone.depth):
        expected = f"config.model.backbone.depth is {config.backbone.depth}"
        raise ValueError(f"{path} holds a ResNet-{depth}, {expected}")
    table = list(torchvision_resnet.entries(config))
    if found == "group":
        table = [detectron2.renamed(x, mmdetection.name(x.path[1:-1], config)) for x in table]
        table = [x._replace(name=x.name.removeprefix(mmdetection.BODY)) for x in table]
    arrays = torchvision_resnet.present(arrays)
    layout.check_fit(arrays, layout.shapes(table), f"{path} does not fit the backbone")
    _turn_to_rgb(path, arrays, "conv1.weight", "bn1.running_var", config)
    return traverse_util.flatten_dict(layout.arrange(arrays, table), sep="/")


def _is_known(names: Mapping[str, np.ndarray]) -> bool:
    """Whether names are those of a backbone or of a whole detector, without a prefix."""
    is_classifier = any(name.startswith(("layer1.", "backbone.layer1.")) for name in names)
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
    path: Path, arrays: dict[str, np.ndarray], stem: str, variance: str | None, config: ModelConfig
) -> None:
    """Reverses the channels of a stem that learned from pixels of 0 to 255: Caffe's read BGR.

    ``variance`` names the statistics that tell such a stem. Without them it is taken for Caffe's,
    and so is group norm, whose released backbones are. Raises ValueError if the config has other
    pixels.
    """
    ratio = guess.input_ratio(arrays[stem], arrays[variance]) if variance in arrays else np.inf
    if ratio is None or ratio < guess.NORMALISED_BELOW:
        return
    if max(config.image_std) > presets.LARGEST_STD_OF_CAFFE:
        raise ValueError(
            f"{path} learned from BGR pixels of 0 to 255 less their mean: set model.image_mean, "
            "model.image_std and model.backbone.stride_in_1x1 as presets.detectron2_r50_fpn does"
        )
    arrays[stem] = arrays[stem][:, ::-1]


def _from_detectron(
    path: Path, arrays: Mapping[str, np.ndarray], config: ModelConfig
) -> dict[str, np.ndarray]:
    """Maps the arrays of a backbone of Caffe2, or with Detectron2's names, to variables."""
    table = list(torchvision_resnet.entries(config))
    if detectron1.is_backbone(arrays):
        named, _ = detectron1.present(arrays)
        table = [detectron1.renamed_entry(entry, config) for entry in table]
        stem, variance = detectron1.STEM, None
    else:
        named, _ = detectron2.present(arrays)
        named = {x: array for x, array in named.items() if x.startswith(("stem.", "res"))}
        table = [detectron2.renamed(x, detectron2.name(x.path[1:-1], config)) for x in table]
        table = [x._replace(name=x.name.removeprefix(detectron2.BODY)) for x in table]
        stem, variance = "stem.conv1.weight", "stem.conv1.norm.running_var"
    layout.check_fit(named, layout.shapes(table), f"{path} does not fit the backbone")
    _turn_to_rgb(path, named, stem, variance, config)
    return traverse_util.flatten_dict(layout.arrange(named, table), sep="/")
