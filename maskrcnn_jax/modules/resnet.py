"""ResNet (He et al., 2015): the backbone. Layers are named as in torchvision."""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from maskrcnn_jax.modules.layers import NORMS, Conv, halve, zero_beyond
from maskrcnn_jax.modules.materialise import relu

# Blocks in each of the four stages, and whether a block has a bottleneck.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class ResNet(nn.Module):
    """Images to the feature maps C2 to C5, of strides 4 to 32."""

    depth: int
    stem_channels: int
    norm: str
    norm_eps: float
    stride_in_1x1: bool
    frozen_stages: int  # No gradient flows into the first of: stem, C2, C3, C4, C5.
    dtype: str
    rematerialise: bool = False  # Keep only what enters each block for the backward pass.
    remake: bool = False  # Make again what is large and soon made, instead of keeping it.
    divided: bool = False  # Several devices share the rows of the maps.

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], extent: Int[Array, "b 2"]) -> dict[int, Array]:
        sizes, bottleneck = DEPTHS[self.depth]
        norm = partial(NORMS[self.norm], eps=self.norm_eps, dtype=self.dtype)
        x = Conv(self.stem_channels, 7, 2, use_bias=False, dtype=self.dtype, divided=self.divided, name="conv1")(
            x, extent
        )
        extent = halve(extent)
        x = relu(norm(name="bn1")(x, extent))
        # Zero is as good as minus infinity beyond the border: no value inside is negative.
        x = nn.max_pool(zero_beyond(x, extent), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        extent = halve(extent)
        x = jax.lax.stop_gradient(x) if self.frozen_stages >= 1 else x

        block = Bottleneck if bottleneck else BasicBlock
        block = nn.remat(block) if self.rematerialise else block
        block = partial(block, stride_in_1x1=self.stride_in_1x1, norm=norm, dtype=self.dtype, remake=self.remake)
        features = {}
        for stage, num_blocks in enumerate(sizes, start=1):
            for i in range(num_blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                width = self.stem_channels * 2 ** (stage - 1)
                name = f"layer{stage}_{i}"
                x = block(width=width, stride=stride, divided=self.divided, name=name)(x, extent)
                extent = halve(extent, stride)
            x = jax.lax.stop_gradient(x) if self.frozen_stages >= stage + 1 else x
            features[stage + 1] = x
        return features


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, around a shortcut."""

    width: int
    stride: int
    stride_in_1x1: bool
    norm: partial
    dtype: str
    remake: bool  # What the first convolution makes, where it is four times as large as the rest of the block.
    divided: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"]) -> Float[Array, "b _ _ _"]:
        conv = partial(Conv, use_bias=False, dtype=self.dtype, divided=self.divided)
        outer = halve(extent, self.stride)
        shrink = Bottleneck._shrink
        if self.remake and self.stride > 1 and not self.stride_in_1x1:
            shrink = nn.remat(shrink)
        y = relu(self.norm(name="bn2")(shrink(self, x, extent), outer))
        y = self.norm(name="bn3")(conv(4 * self.width, 1, name="conv3")(y), outer)
        if x.shape != y.shape:
            x = conv(4 * self.width, 1, self.stride, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, outer)
        return relu(x + y)

    def _shrink(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"]) -> Float[Array, "b _ _ _"]:
        """The first two convolutions, which have the stride between them."""
        conv = partial(Conv, self.width, use_bias=False, dtype=self.dtype, divided=self.divided)
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        inner = halve(extent, first)
        y = relu(self.norm(name="bn1")(conv(1, first, name="conv1")(x), inner))
        return conv(3, second, name="conv2")(y, inner)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, for ResNet 18 and 34."""

    width: int
    stride: int
    stride_in_1x1: bool  # Has no effect: there is no 1x1 convolution to move the stride to.
    norm: partial
    dtype: str
    remake: bool  # Has no effect: no convolution makes something larger than what enters the block.
    divided: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"]) -> Float[Array, "b _ _ _"]:
        conv = partial(Conv, use_bias=False, dtype=self.dtype, divided=self.divided)
        outer = halve(extent, self.stride)
        y = relu(self.norm(name="bn1")(conv(self.width, 3, self.stride, name="conv1")(x, extent), outer))
        y = self.norm(name="bn2")(conv(self.width, 3, name="conv2")(y, outer), outer)
        if x.shape != y.shape:
            x = conv(self.width, 1, self.stride, name="downsample_conv")(x)
            x = self.norm(name="downsample_bn")(x, outer)
        return relu(x + y)
