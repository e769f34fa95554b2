"""ConvNeXt (Liu et al., 2022): images to the feature maps C2 to C5."""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ConvNeXtConfig
from maskrcnn_jax.modules.extents import halve, zero_beyond
from maskrcnn_jax.modules.layers import (
    Conv,
    PatchConv,
    Projection,
    gelu,
    recomputed,
    without_branches,
)
from maskrcnn_jax.modules.norms import LayerNorm

SCALE = 1e-6  # Of the branches before training.


class ConvNeXt(nn.Module):
    """Images to ``{level: [b, h, w, c]}``, for levels 2 to 5 with strides 4 to 32."""

    config: ConvNeXtConfig
    dtype: str = "float32"
    run: Execution = Execution()

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], canvas: Int[Array, "b 2"]
    ) -> dict[int, Array]:
        c, features = self.config, {}
        norm, patches = (partial(kind, dtype=self.dtype) for kind in (LayerNorm, PatchConv))
        extent = halve(canvas, 4)
        x = norm(name="stem_norm")(patches(c.width, 4, name="stem_conv")(images))
        x = self._stop_if_frozen(x, stage=1)
        block, number = recomputed(Block, "blocks", self.run), 0
        for level, num_blocks in enumerate(c.depths, start=2):
            width = channels(c)[level]
            if level > 2:
                x = norm(name=f"downsample{level}_norm")(x)
                x = patches(width, 2, name=f"downsample{level}_conv")(x)
                extent = halve(extent)
            for i in range(num_blocks):
                drop = c.drop_path * number / max(sum(c.depths) - 1, 1)
                x = block(width, drop, self.dtype, self.run, name=f"stage{level}_{i}")(x, extent)
                number += 1
            x = features[level] = self._stop_if_frozen(x, stage=level)
        return features

    def _stop_if_frozen(self, x: Array, stage: int) -> Array:
        return jax.lax.stop_gradient(x) if self.config.frozen_stages >= stage else x


def channels(config: ConvNeXtConfig) -> dict[int, int]:
    """The number of channels of C2 to C5."""
    return {level: config.width * 2 ** (level - 2) for level in range(2, 6)}


def stage_of(layer: str) -> int:
    """The stage of a layer: 1 for the stem, 2 to 5 for C2 to C5."""
    if layer.startswith("stem"):
        return 1
    return int(layer.removeprefix("stage").removeprefix("downsample")[0])


class Block(nn.Module):
    """7x7 of each channel, then 1x1 to four times the channels and back, around a shortcut.

    This is figure 4 of the paper, right.
    """

    width: int
    drop: float  # Probability that training skips the branch of an image.
    dtype: str
    run: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"]) -> Array:
        depthwise = partial(Conv, self.width, 7, groups=self.width, dtype=self.dtype)
        y = depthwise(per_device=self.run.per_device, name="conv")(zero_beyond(x, extent))
        y = LayerNorm(dtype=self.dtype, name="norm")(y)
        y = gelu(Projection(4 * self.width, self.dtype, name="fc1")(y))
        y = Projection(self.width, self.dtype, name="fc2")(y)
        scale = self.param("scale", nn.initializers.constant(SCALE), (self.width,))
        y = y * scale.astype(self.dtype).reshape(1, 1, 1, -1)
        return x + without_branches(self, y, self.drop)
