"""Weights with the names of Detectron2, MMDetection and Detectron 1, drawn at random."""

import dataclasses
from types import ModuleType

import numpy as np

from maskrcnn_jax.config import Config
from maskrcnn_jax.model_config import ViTConfig
from tests.weights.states import small


def reduced(config: Config, depth: int = 18) -> Config:
    """Reduces the channels of a config in place; group norm needs 32 of them."""
    model = config.model
    if isinstance(model.backbone, ViTConfig):
        sizes = {"width": 16, "depth": 3, "num_heads": 2, "window": 5, "global_blocks": (1,)}
        model.backbone = dataclasses.replace(model.backbone, **sizes)
        model.fpn.channels, model.box_head.features = 8, 16
        model.box_head.channels = model.mask_head.channels = 10
        return config
    small(model, depth)
    if model.backbone.groups > 1:  # Each group keeps a channel.
        model.backbone.depth = depth if depth >= 50 else 50
        model.backbone.stem_channels = 64 // model.backbone.width_per_group
    if model.backbone.norm == "group":
        model.backbone.stem_channels, model.fpn.channels = 32, 32
        model.box_head.channels, model.mask_head.channels = 32, 32
    return config


def state_of(
    family: ModuleType, config: Config, *, scale: float = 58.0, counters: str = ""
) -> dict[str, np.ndarray]:
    """Makes the arrays of a model in which all numbers differ.

    Args:
        family: The module of the family.
        config: The config of the model.
        scale: The deviation of the pixels that the stem learned from.
        counters: Norms whose names begin with this have batch counters; none if empty.
    """
    random = np.random.default_rng(0)
    table = list(family.entries(config.model))
    state = {x.name: random.normal(size=x.shape).astype(np.float32) for x in table}
    stem = next((state[name] for name in family.STEMS if name in state), None)
    for entry in table:
        if entry.path[1:] == ("backbone", "bn1", "var"):
            state[entry.name] = np.square(stem).sum((1, 2, 3)) * np.float32(scale) ** 2
    norms = [x.removesuffix(".running_var") for x in state if x.endswith(".running_var")]
    if counters:
        norms = [x for x in norms if x.startswith(counters)]
        state |= {f"{x}.num_batches_tracked": np.array(7) for x in norms}
    return state
