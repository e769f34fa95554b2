"""Loads pretrained backbones: torchvision's ResNets for classification, or files of our own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.weights import download, files, layout, own, torchvision, torchvision_resnet


def load(weights: str, variables: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Replaces the variables of the backbone by the arrays of a file.

    Args:
        weights: A file, or "IMAGENET1K_V1" or "IMAGENET1K_V2" for torchvision's weights of the
            config's depth. A file with torchvision's names must be complete; its classifier is
            dropped. A file with our names may lack variables, which then keep their values.
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
    arrays = files.read(path).arrays
    if own.recognises(arrays):
        loaded = _own(path, arrays, variables)
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
    if config.backbone.norm == "group":
        raise ValueError(
            f'{path} was trained with batch norm, config.model.backbone.norm is "group"'
        )
    if torchvision.recognises(arrays):
        raise ValueError(f"{path} holds a whole detector: give it as config.weights")
    depth = torchvision_resnet.resnet_depth(arrays)
    if depth not in (None, config.backbone.depth):
        expected = f"config.model.backbone.depth is {config.backbone.depth}"
        raise ValueError(f"{path} holds a ResNet-{depth}, {expected}")
    table = list(torchvision_resnet.entries(config))
    arrays = torchvision_resnet.present(arrays)
    layout.check_fit(arrays, layout.shapes(table), f"{path} does not fit the backbone")
    return traverse_util.flatten_dict(layout.arrange(arrays, table), sep="/")
