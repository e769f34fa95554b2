"""Writes a model to one file, with our names or with torchvision's."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.weights import files, model_metadata, torchvision


def save(
    path: str | Path,
    config: Config,
    variables: dict[str, Any],
    categories: Categories | None,
    *,
    consume: bool = False,
) -> None:
    """Writes the variables of a model with its config and categories.

    The suffix determines the format and the names: ``.npz`` has the paths of our variables;
    ``.pth`` and ``.safetensors`` have torchvision's names, and torchvision loads them with
    ``strict=True`` into the same model.

    Args:
        path: The file to write.
        config: The config of the model.
        variables: The variables of the model; they are written as float32.
        categories: The map from labels to categories, or None if unknown.
        consume: Whether the variables may be emptied on the way, which saves memory.

    Raises:
        ValueError: The suffix is unknown, or torchvision does not have the model.
    """
    if Path(path).suffix == ".npz":
        flat = traverse_util.flatten_dict(variables, sep="/")
        arrays = {name: np.asarray(array, np.float32) for name, array in flat.items()}
    else:
        torchvision.check_can_build(config.model)
        arrays = torchvision.to_state_dict(variables, config.model, consume=consume)
    files.write(path, arrays, model_metadata.encode(config, categories))
