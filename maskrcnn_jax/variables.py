"""Shapes of the variables of a model, and the inputs that `init` needs to make them."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.settings import freeze


def example_inputs(config: ModelConfig) -> tuple[UInt8[Array, "1 s s c"], Int[Array, "1 2"]]:
    """Images and sizes for `init`; no parameter depends on their size, and a ViT takes its own."""
    side = getattr(config.backbone, "image_side", 64)
    return jnp.zeros((1, side, side, len(config.image_mean)), jnp.uint8), jnp.full((1, 2), side)


def variable_shapes(config: ModelConfig) -> dict[str, Any]:
    """Shapes and dtypes of the variables of a model, by collection."""
    return jax.tree.map(lambda x: x, _variable_shapes(freeze(config)))  # Callers own their copy.


@lru_cache(maxsize=16)  # Tracing a model takes a second or more.
def _variable_shapes(config: ModelConfig) -> dict[str, Any]:
    return jax.eval_shape(MaskRCNN(config).init, jax.random.key(0), *example_inputs(config))
