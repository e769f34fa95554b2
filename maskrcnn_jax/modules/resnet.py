"""ResNet (He et al., 2015) and ResNeXt (Xie et al., 2017): images to the feature maps C2 to C5.

Layers have torchvision's names.
"""

from collections.abc import Iterator
from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ResNetConfig
from maskrcnn_jax.modules.extents import halve, zero_beyond
from maskrcnn_jax.modules.layers import Conv, normed, recomputed, relu
from maskrcnn_jax.modules.norms import NORMS

# Blocks in each of the four stages, and whether a block has a bottleneck.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


class ResNet(nn.Module):
    """Images to ``{level: [b, h, w, c]}``, for levels 2 to 5, or 4, with strides 4 to 32.

    A dilated C5 has the stride of C4, 16, so it is level 4 in its place.
    """

    config: ResNetConfig
    dtype: str = "float32"
    run: Execution = Execution()

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], canvas: Int[Array, "b 2"]
    ) -> dict[int, Array]:
        c, sharded = self.config, self.run.row_shards > 1
        norm = partial(NORMS[c.norm], eps=c.norm_eps, dtype=self.dtype)
        conv = partial(Conv, use_bias=False, dtype=self.dtype, rows_sharded=sharded)

        extent = halve(canvas)
        stem = conv(c.stem_channels, 7, stride=2, name="conv1")
        x = relu(normed(stem, norm(name="bn1"), images, extent), extent)
        # After ReLU no value is negative, so padding with zeros gives the same maximum as padding
        # with minus infinity.
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        extent = halve(extent)
        x = self._stop_if_frozen(x, stage=1)

        features = {}
        for stage in range(2, c.last_level + 1):
            for block, stride in blocks(c, stage, self.dtype, self.run):
                x = block(x, extent)
                extent = halve(extent, stride)
            x = features[min(stage, c.coarsest_level)] = self._stop_if_frozen(x, stage)
        return features

    def _stop_if_frozen(self, x: Array, stage: int) -> Array:
        return jax.lax.stop_gradient(x) if self.config.frozen_stages >= stage else x


class LastStage(nn.Module):
    """C5 of RoIs, from their features of C4, in half the resolution."""

    config: ResNetConfig
    dtype: str = "float32"
    run: Execution = Execution()

    @nn.compact
    def __call__(self, x: Float[Array, "n s s c"]) -> Float[Array, "n t t f"]:
        run = self.run._replace(row_shards=1)  # No devices share the rows of an RoI.
        for block, _ in blocks(self.config, 5, self.dtype, run):
            x = block(x, None)
        return x


def blocks(
    c: ResNetConfig, stage: int, dtype: str, run: Execution
) -> Iterator[tuple[nn.Module, int]]:
    """The blocks of a stage, as submodules, and their strides."""
    norm = partial(NORMS[c.norm], eps=c.norm_eps, dtype=dtype)
    conv = partial(Conv, use_bias=False, dtype=dtype, rows_sharded=run.row_shards > 1)
    dilation = c.c5_dilation if stage == 5 else 1
    grouped = partial(conv, groups=c.groups, dilation=dilation, per_device=run.per_device)
    sizes, has_bottleneck = DEPTHS[c.depth]
    block = Bottleneck if has_bottleneck else BasicBlock
    block = recomputed(block, "blocks", run)
    outputs = stage_channels(c)[stage]
    width = c.width * 2 ** (stage - 2) if has_bottleneck else outputs
    for i in range(sizes[stage - 2]):
        stride = 2 if stage > 2 and i == 0 and dilation == 1 else 1
        layers = conv, grouped, norm, run
        name = f"layer{stage - 1}_{i}"
        yield block(width, outputs, stride, c.stride_in_1x1, *layers, name=name), stride


def channels(config: ResNetConfig) -> dict[int, int]:
    """The number of channels of each level."""
    of_stages = stage_channels(config)
    stages = range(2, config.last_level + 1)
    return {min(stage, config.coarsest_level): of_stages[stage] for stage in stages}


def stage_channels(config: ResNetConfig) -> dict[int, int]:
    """The number of channels of C2 to C5."""
    expansion = 4 if DEPTHS[config.depth][1] else 1
    return {level: expansion * config.stem_channels * 2 ** (level - 2) for level in range(2, 6)}


def stage_of(parameter: str) -> int:
    """The stage of a layer: 1 for the stem, 2 to 5 for C2 to C5."""
    return int(parameter[len("layer")]) + 1 if parameter.startswith("layer") else 1


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, around a shortcut (figure 5 of the paper, right).

    In a ResNeXt the 3x3 convolution is wider and has groups (its figure 3c).
    """

    width: int
    outputs: int
    stride: int
    stride_in_1x1: bool
    conv: partial
    grouped: partial
    norm: partial
    run: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None) -> Array:
        outer = halve(extent, self.stride)
        # Before a stride, the first layer makes four times as much as any other of the block.
        halves_late = self.stride > 1 and not self.stride_in_1x1
        narrow = Bottleneck._narrow
        narrow = recomputed(narrow, "strided", self.run) if halves_late else narrow
        y = relu(narrow(self, x, extent))
        y = normed(self.conv(self.outputs, 1, name="conv3"), self.norm(name="bn3"), y, outer)
        return relu(_shortcut(self, x, y, outer) + y)

    def _narrow(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None) -> Array:
        """The first two convolutions, one of which has the stride."""
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        inner = halve(extent, first)
        reduce = self.conv(self.width, 1, stride=first, name="conv1")
        y = relu(normed(reduce, self.norm(name="bn1"), x, inner), inner)
        middle = self.grouped(self.width, 3, stride=second, name="conv2")
        return normed(middle, self.norm(name="bn2"), y, halve(inner, second))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (figure 5, left), for ResNet 18 and 34."""

    width: int
    outputs: int  # As many as ``width``.
    stride: int
    stride_in_1x1: bool  # Has no effect: the block has no 1x1 convolution.
    conv: partial
    grouped: partial  # Not used: there are no groups.
    norm: partial
    run: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None) -> Array:
        outer = halve(extent, self.stride)
        first = self.conv(self.width, 3, stride=self.stride, name="conv1")
        y = normed(first, self.norm(name="bn1"), zero_beyond(x, extent), outer)
        y = relu(y, outer)
        y = normed(self.conv(self.width, 3, name="conv2"), self.norm(name="bn2"), y, outer)
        return relu(_shortcut(self, x, y, outer) + y)


def _shortcut(
    block: Bottleneck | BasicBlock, x: Array, y: Array, extent: Int[Array, "b 2"] | None
) -> Array:
    """``x``, or its projection to the shape of ``y`` by a 1x1 convolution."""
    if x.shape == y.shape:
        return x
    project = block.conv(y.shape[-1], 1, stride=block.stride, name="downsample_conv")
    return normed(project, block.norm(name="downsample_bn"), x, extent)
