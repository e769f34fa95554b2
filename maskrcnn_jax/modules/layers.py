"""The layers everything is built from: convolution, normalisation, upsampling by two.

Activations are ``[b, h, w, c]``. ``extent`` is the part of a feature map that the canvas of each image covers, in
cells, int32 ``[b, 2]`` (height, width); what lies beyond it must influence nothing inside, so that an image gives the
same result in any bucket. RoIs have no such border and pass None.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.modules.convolution import conv
from maskrcnn_jax.modules.materialise import together
from maskrcnn_jax.modules.matmul import matmul

Initializer = Callable[..., Array]

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default for a linear layer.


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default for a bias: uniform within ``1 / sqrt(fan_in)`` of zero."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def zero_beyond(x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None) -> Float[Array, "b h w c"]:
    """Sets the cells beyond the extent of each image to zero, as if the map ended there."""
    return x if extent is None else jnp.where(within(x.shape[1:3], extent), x, 0)


def within(shape: tuple[int, int], extent: Int[Array, "b 2"]) -> Array:
    """Whether each cell of a map lies inside the extent of its image, bool ``[b, h, w, 1]``."""
    rows = jnp.arange(shape[0]).reshape(1, -1, 1, 1) < extent[:, 0].reshape(-1, 1, 1, 1)
    columns = jnp.arange(shape[1]).reshape(1, 1, -1, 1) < extent[:, 1].reshape(-1, 1, 1, 1)
    return rows & columns


def halve(extent: Int[Array, "b 2"], stride: int = 2) -> Int[Array, "b 2"]:
    """Extent of the result of a convolution or pooling of this stride."""
    # XLA repeats this wherever cells are compared with it; ``-(-extent // stride)`` would be some thirty operations.
    return jax.lax.div(extent + (stride - 1), jnp.full_like(extent, stride))


class Conv(nn.Module):
    """Convolution, padded symmetrically by half its kernel; parameters ``kernel`` (HWIO) and ``bias``."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    kernel_init: Initializer = kaiming_normal
    bias_init: Initializer = nn.initializers.zeros
    dtype: str = "float32"
    divided: bool = False  # Several devices share the rows of the map.

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None) -> Float[Array, "b _ _ f"]:
        side = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (side, side, x.shape[-1], self.features))
        if side > 1:
            x = zero_beyond(x, extent)
        bias = self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None
        return convolve(x, kernel, bias, self.stride, self.dtype, self.divided)


def convolve(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    bias: Float[Array, " o"] | None,
    stride: int,
    dtype: str,
    divided: bool,
) -> Float[Array, "b _ _ o"]:
    """What `Conv` computes, with given parameters."""
    y = conv(x.astype(dtype), kernel.astype(dtype), stride, divided=divided)
    if bias is None:
        return y
    y, bias = together((y, bias.astype(dtype)))
    return y + bias.reshape(1, 1, 1, -1)


class ConvParameters(nn.Module):
    """``kernel`` (HWIO) and ``bias`` of a convolution that `Conv` does not compute, or not in whole."""

    features: int
    kernel_size: int
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, channels: int) -> tuple[Float[Array, "kh kw i o"], Float[Array, " o"]]:
        side = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (side, side, channels, self.features))
        return kernel, self.param("bias", self.bias_init, (self.features,))


class Deconv2x2(nn.Module):
    """Transposed convolution with a 2x2 kernel and stride 2: no windows overlap, so it is one matrix product.

    Of each cell become two by two, which `interleave` puts in their places.

    Parameters: ``kernel [2, 2, c, f]``, by row and column of the output cell, and ``bias [f]``.
    """

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w 2 2 f"]:
        c = x.shape[-1]
        # PyTorch counts the fans of a transposed convolution the other way round.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        kernel = self.param("kernel", init, (2, 2, c, self.features))
        bias = self.param("bias", torch_bias(4 * self.features), (self.features,))
        matrix = kernel.astype(self.dtype).transpose(2, 0, 1, 3).reshape(c, -1)
        y = matmul(x.astype(self.dtype), matrix).reshape(*x.shape[:3], 2, 2, self.features)
        y, bias = together((y, bias.astype(self.dtype)))
        return y + bias.reshape(1, 1, 1, 1, 1, -1)


def interleave(x: Float[Array, "n h w 2 2 c"]) -> Float[Array, "n 2*h 2*w c"]:
    """Each cell's two by two beside those of its neighbours."""
    n, h, w, _, _, c = x.shape
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c)


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics and fixed affine, a scale and a shift per channel.

    Its four vectors live in the collection ``constants``: no optimizer ever sees them.
    """

    eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None) -> Float[Array, "b h w c"]:
        shape = (x.shape[-1],)
        scale = self.variable("constants", "scale", jnp.ones, shape).value
        bias = self.variable("constants", "bias", jnp.zeros, shape).value
        mean = self.variable("constants", "mean", jnp.zeros, shape).value
        variance = self.variable("constants", "var", jnp.ones, shape).value
        factor = scale * jax.lax.rsqrt(variance + self.eps)
        shift = bias - mean * factor
        return x * _channels(factor, self.dtype) + _channels(shift, self.dtype)


class GroupNorm(nn.Module):
    """Group norm (Wu and He, 2018) over 32 groups of channels, with statistics taken inside the extent, in float32."""

    eps: float = 1e-5
    dtype: str = "float32"
    num_groups: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        groups = x.astype(jnp.float32).reshape(b, h * w, self.num_groups, -1)
        inside = None if extent is None else within((h, w), extent).reshape(b, h * w, 1, 1)
        mean, variance, _ = _moments(groups, inside, (1, 3))
        y = ((groups - mean) * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return (y * _channels(scale, "float32") + _channels(bias, "float32")).astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy, 2015), with statistics taken inside the extents, in float32.

    Normalises with the statistics of the batch, and moves the running ones towards them, exactly when the collection
    ``batch_stats`` is mutable; else with the running ones. As in PyTorch the running variance is the unbiased one, and
    a batch without a single cell leaves both as they were. Where one program shards the batch, the batch is the whole.
    """

    eps: float = 1e-5
    dtype: str = "float32"
    momentum: float = 0.1  # Share of the new statistics in the running ones.

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None) -> Float[Array, "b h w c"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, variance = running_mean.value, running_variance.value
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            inside = None if extent is None else within(x.shape[1:3], extent)
            mean, variance, count = (y.reshape(-1) for y in _moments(x.astype(jnp.float32), inside, (0, 1, 2)))
            rate = jnp.where(count > 0, self.momentum, 0.0)
            running_mean.value += rate * (mean - running_mean.value)
            unbiased = variance * (count / jnp.maximum(count - 1, 1))
            running_variance.value += rate * (unbiased - running_variance.value)
        factor = scale * jax.lax.rsqrt(variance + self.eps)
        shift = bias - mean * factor
        return x * _channels(factor, self.dtype) + _channels(shift, self.dtype)


def _moments(x: Float[Array, "..."], inside: Array | None, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Mean and variance over some axes, of what is inside, and how many numbers that is; zero where there are none."""
    inside = jnp.ones((1,) * x.ndim, bool) if inside is None else inside
    repeats = math.prod(x.shape[axis] // inside.shape[axis] for axis in axes)
    count = repeats * inside.sum(axes, keepdims=True, dtype=jnp.float32)

    def average(y: Array) -> Array:
        return jnp.where(inside, y, 0).sum(axes, keepdims=True) / jnp.maximum(count, 1)

    mean = average(x)
    return mean, average(jnp.square(x - mean)), count


NORMS = {"frozen_batch": FrozenBatchNorm, "batch": BatchNorm, "group": GroupNorm}


def _channels(vector: Float[Array, " c"], dtype: str) -> Float[Array, "1 1 1 c"]:
    return vector.astype(dtype).reshape(1, 1, 1, -1)
