"""Pretrained backbones: torchvision's ResNets for classification, or files of our own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.weights import architecture, download, files, torchvision

CLASSIFIER = "fc."
OWN = ("params/", "constants/", "batch_stats/")


def load(weights: str, variables: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Replaces the variables of the backbone by those of a file.

    Args:
        weights: The file, or "IMAGENET1K_V1" or "IMAGENET1K_V2": torchvision's of the depth of the config. A file
            holds torchvision's names, its classifier is dropped; or paths of our variables, of which those that the
            file lacks keep their values.
        variables: Of the whole model, as initialised.
        config: Of the model.

    Raises:
        OSError: No such file, or it cannot be downloaded.
        ValueError: The file is broken or does not fit the backbone; the message lists every array that is wrong.
    """
    path = _path(weights, config.depth)
    arrays = files.read(path).arrays
    if any(name.startswith(OWN) for name in arrays):
        loaded = _own(path, arrays, variables)
    else:
        loaded = traverse_util.flatten_dict(_from_torchvision(path, arrays, config), sep="/")
    flat = traverse_util.flatten_dict(variables, sep="/", keep_empty_nodes=True)
    return traverse_util.unflatten_dict(flat | loaded, sep="/")


def _path(weights: str, depth: int) -> Path:
    """Where the file is, after a download if it is a released one."""
    versions = {version: name for (of, version), name in download.BACKBONES.items() if of == depth}
    if weights in versions:
        return download.fetch(versions[weights])
    if not Path(weights).exists():
        names = " or ".join(f'"{version}"' for version in versions)
        raise FileNotFoundError(f"backbone weights {weights!r}: no such file, and for ResNet-{depth} there is {names}")
    return Path(weights)


def _own(path: Path, arrays: Mapping[str, np.ndarray], variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """By our names in the model: whether a norm is frozen decides the collection, not the name within."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    names = {name.partition("/")[2]: name for name in flat if name.split("/")[1] == "backbone"}
    short = {name.partition("/")[2]: array for name, array in arrays.items()}
    _refuse(path, torchvision.misfits(short, {name: flat[names[name]].shape for name in names if name in short}))
    return {names[name]: array.astype(np.float32) for name, array in short.items()}


def _from_torchvision(path: Path, arrays: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, Any]:
    if config.norm == "group":
        raise ValueError(f'{path} was trained with batch norm, config.model.norm is "group"')
    if any(name.startswith(architecture.BODY) for name in arrays):
        raise ValueError(f"{path} holds a whole detector: give it as config.weights")
    depth = architecture.resnet_depth(arrays, "")
    if depth not in (None, config.depth):
        raise ValueError(f"{path} holds a ResNet-{depth}, config.model.depth is {config.depth}")
    table = list(torchvision.backbone_entries(config))
    kept = {n: x for n, x in torchvision.without_counters(arrays).items() if not n.startswith(CLASSIFIER)}
    _refuse(path, torchvision.misfits(kept, {entry.name: entry.shape for entry in table}))
    return torchvision.arrange(kept, table)


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"{path} does not fit the backbone:\n  " + "\n  ".join(problems))
