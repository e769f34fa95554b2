"""The backbone of each config, and the contract of a backbone.

A backbone has these parts: a config dataclass with a field ``frozen_stages``; a module, built as
``module(config, dtype, run)``, that maps images and canvas to ``{level: feature map}`` of strides
``2**level``; the numbers of channels of these maps; and a function from the name of a layer to its
stage. A new backbone is one entry of `BACKBONES`, and one type of `ModelConfig.backbone`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ConvNeXtConfig, ResNetConfig, ViTConfig
from maskrcnn_jax.modules import convnext, resnet, vit
from maskrcnn_jax.ops.rounding import ceil32


class Backbone(NamedTuple):
    """The module of a kind of backbone, and what is known of its layers."""

    module: Callable[..., nn.Module]
    stage_of: Callable[[str], int]  # Name of a layer to its stage, counted from 1.
    channels: Callable[[Any], dict[int, int]]  # Config to the channels of each level.
    num_stages: Callable[[Any], int]  # Config to the number of the last stage.


BACKBONES: dict[type, Backbone] = {
    ResNetConfig: Backbone(resnet.ResNet, resnet.stage_of, resnet.channels, lambda _: 5),
    ConvNeXtConfig: Backbone(convnext.ConvNeXt, convnext.stage_of, convnext.channels, lambda _: 5),
    ViTConfig: Backbone(vit.ViT, vit.stage_of, vit.channels, lambda config: config.depth + 1),
}


def build(config: Any, dtype: str, run: Execution) -> nn.Module:
    """The backbone of a config."""
    return BACKBONES[type(config)].module(config, dtype, run)


def is_frozen(config: Any, layer: str) -> bool:
    """Whether a layer of the backbone belongs to a frozen stage."""
    return BACKBONES[type(config)].stage_of(layer) <= config.frozen_stages


def channels(config: Any) -> dict[int, int]:
    """The number of channels of each level."""
    return BACKBONES[type(config)].channels(config)


def layers_above(config: Any, layer: str) -> int:
    """The number of stages from that of a layer to the end of the backbone, itself included.

    0 for layers after the last stage. Layer-wise decay lowers the learning rate for each.
    """
    kind = BACKBONES[type(config)]
    return max(kind.num_stages(config) + 1 - kind.stage_of(layer), 0)


def canvas_of(
    config: Any, sizes: Int[Array, "b 2"], given: Int[Array, "b 2"] | None
) -> Int[Array, "b 2"]:
    """The part of the bucket that the network sees.

    For a ViT it is the square of its config. For others it is the given one, or by default the
    sizes rounded up to multiples of 32.
    """
    if isinstance(config, ViTConfig):
        return jnp.full_like(sizes, config.image_side)
    return ceil32(sizes) if given is None else given
