"""Our own names in weight files: paths of variables, such as ``params/fpn/lateral2/kernel``.

Frozen and trained norms have different collections. Names are therefore compared without the
collection, so that the weights of one also fit a model with the other.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.variables import example_inputs, variable_shapes
from maskrcnn_jax.weights.guess import Guess
from maskrcnn_jax.weights.layout import Entry

WHOSE = "our"
COLLECTIONS = ("params/", "constants/", "batch_stats/")


def recognises(names: Iterable[str]) -> bool:
    """Tells whether a file has our names."""
    return any(name.startswith(COLLECTIONS) for name in names)


def infer(state: Mapping[str, np.ndarray], about: Mapping[str, str]) -> Guess | None:
    """Returns None: our names determine no config; our files store it as metadata."""
    return None


def num_classes(arrays: Mapping[str, np.ndarray]) -> int | None:
    """Returns the number of classes, including background; None if the classifier is missing."""
    bias = arrays.get("box_head/cls_score/bias", arrays.get("box_head/stage_0/cls_score/bias"))
    return None if bias is None else bias.size


def present(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays by their names without the collection, and no old names.

    Raises:
        ValueError: Two collections have an array of the same name.
    """
    arrays = {}
    for name, array in state.items():
        short = name.partition("/")[2] if name.startswith(COLLECTIONS) else name
        if short in arrays:
            raise ValueError(f"{short} is there twice")
        arrays[short] = np.asarray(array)
    return arrays, {}


def entries(config: ModelConfig) -> list[Entry]:
    """Returns the table of a model, which changes no array."""
    variables = variable_shapes(config)
    table = []
    for path, x in traverse_util.flatten_dict(variables).items():
        axes = tuple(range(x.ndim))
        table.append(Entry("/".join(path[1:]), path, x.shape, x.shape, axes, x.shape))
    return table


def initialiser(config: ModelConfig) -> Any:
    """Returns a function that maps a random key to the initial variables of a model."""
    model, inputs = MaskRCNN(config), example_inputs(config)
    return lambda key: model.init(key, *inputs)
