"""The backbone of each config, and the contract of a backbone.

A backbone has three parts: a config dataclass with a field ``frozen_stages``; a module, built as
``module(config, dtype, run)``, that maps images and canvas to ``{level: feature map}`` of strides
``2**level``; and a function from the name of a layer to its stage. A new backbone is one entry of
`BACKBONES`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from maskrcnn_jax.config import ResNetConfig
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.modules import resnet


class Backbone(NamedTuple):
    """The module of a kind of backbone, and the stages of its layers."""

    module: Callable[..., nn.Module]
    stage_of: Callable[[str], int]  # Name of a layer to its stage, counted from 1.


BACKBONES: dict[type, Backbone] = {
    ResNetConfig: Backbone(resnet.ResNet, resnet.stage_of),
}


def build(config: Any, dtype: str, run: Execution) -> nn.Module:
    """The backbone of a config."""
    return BACKBONES[type(config)].module(config, dtype, run)


def is_frozen(config: Any, layer: str) -> bool:
    """Whether a layer of the backbone belongs to a frozen stage."""
    return BACKBONES[type(config)].stage_of(layer) <= config.frozen_stages
