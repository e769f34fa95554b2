"""Writes a model to one file, for ourselves or for torchvision."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from maskrcnn_jax.config import Config, ModelConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.weights import files, model_metadata, torchvision


def save(path: str | Path, config: Config, variables: dict[str, Any], categories: Categories | None) -> None:
    """Writes variables, what the model is, and what its labels mean.

    The suffix names the format: ``.npz`` has the paths of our variables, ``.pth`` and ``.safetensors`` the names of
    torchvision, which loads them with ``strict=True`` into the model that the configuration describes.

    Raises:
        ValueError: Another suffix, or a model that torchvision does not have.
    """
    if Path(path).suffix == ".npz":
        flat = traverse_util.flatten_dict(variables, sep="/")
        arrays = {name: np.asarray(array, np.float32) for name, array in flat.items()}
    else:
        check_torchvision_has(config.model)
        arrays = torchvision.to_state_dict(variables, config.model)
    files.write(path, arrays, model_metadata.encode(config, categories))


def check_torchvision_has(config: ModelConfig) -> None:
    """Raises ValueError if torchvision cannot build this network, or would compute something else with its weights."""
    differences = []
    for field in ("norm", "fpn_norm", "box_head_norm", "mask_head_norm"):
        if getattr(config, field) == "group":
            differences.append(f'{field} "group"')
    if config.stem_channels != ModelConfig().stem_channels:
        differences.append(f"stem_channels {config.stem_channels}")
    if config.stride_in_1x1 and config.depth >= 50:
        differences.append("stride_in_1x1")
    if not config.box_head_convs and config.box_head_layers != 2:
        differences.append(f"box_head_layers {config.box_head_layers}")
    if config.roi.aligned:
        differences.append("roi.aligned")
    if config.roi.pooling != "align":
        differences.append(f'roi.pooling "{config.roi.pooling}"')
    if differences:
        raise ValueError(f"torchvision has no model with {', '.join(differences)}; .npz holds any of ours")
