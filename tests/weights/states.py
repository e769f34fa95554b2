"""Small networks of each architecture, and their weights by torchvision's names."""

import jax
import numpy as np

from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import torchvision


def small(config: ModelConfig, depth: int = 18, stem_channels: int = 4) -> ModelConfig:
    """Reduces the channels of a config in place."""
    config.backbone.depth, config.backbone.stem_channels = depth, stem_channels
    if config.fpn is not None:
        config.fpn.channels = 8
    if config.box_head.num_layers:
        config.box_head.features = 16
    if config.mask_head is not None:
        config.mask_head.channels = 12
    if config.box_head.num_convs:
        config.box_head.channels = 10
    return config


def state_of(config: ModelConfig) -> dict[str, np.ndarray]:
    """Makes a state dict in which all numbers differ, so that swapped arrays are noticed."""
    random = np.random.default_rng(0)
    table = torchvision.entries(config)
    return {entry.name: random.normal(size=entry.shape).astype(np.float32) for entry in table}


def with_counters(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds a batch counter for each norm."""
    names = [name for name in state if name.endswith("running_var")]
    counters = (name.replace("running_var", torchvision.COUNTER) for name in names)
    return state | dict.fromkeys(counters, np.array(7))


def assert_equal(a, b) -> None:
    """Fails unless two trees of arrays are equal."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
