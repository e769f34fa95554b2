"""Layers that all networks share: convolution, normalisation, upsampling by two.

Activations are ``[b, h, w, c]``. ``extent`` is the part of a feature map that the canvas of each
image covers, in cells, int32 ``[b, 2]`` (height, width). Cells beyond it must not influence cells
inside, so that an image gives the same result in any bucket. RoIs have no such border and pass
None.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.config import BoxHeadConfig, MaskHeadConfig
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.ops.convolution import conv, matmul
from maskrcnn_jax.structures import Pyramid
from maskrcnn_jax.xla.barriers import backward_barrier, barrier

Initializer = Callable[..., Array]

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
# PyTorch's default for a linear layer.
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default for a bias: uniform within ``1 / sqrt(fan_in)`` of zero."""
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def zero_beyond(
    x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None
) -> Float[Array, "b h w c"]:
    """Sets the cells beyond the extent of each image to zero, as if the map ended there."""
    return x if extent is None else jnp.where(within(x.shape[1:3], extent), x, 0)


def within(shape: tuple[int, int], extent: Int[Array, "b 2"]) -> Array:
    """Whether each cell of a map lies inside the extent of its image, bool ``[b, h, w, 1]``."""
    rows = jnp.arange(shape[0]).reshape(1, -1, 1, 1) < extent[:, 0].reshape(-1, 1, 1, 1)
    columns = jnp.arange(shape[1]).reshape(1, 1, -1, 1) < extent[:, 1].reshape(-1, 1, 1, 1)
    return rows & columns


def halve(extent: Int[Array, "b 2"], stride: int = 2) -> Int[Array, "b 2"]:
    """Extent of the result of a convolution or pooling of this stride."""
    # XLA repeats this division wherever the extent is read. jax.lax.div is a single operation, the
    # floor division of ``ceil_div`` some thirty.
    return jax.lax.div(extent + (stride - 1), jnp.full_like(extent, stride))


@jax.custom_jvp
def relu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """``max(x, 0)``. Its only residual is its result, which the next layer keeps in any case."""
    return barrier(jnp.maximum(x, 0))


@relu.defjvp
def _relu_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = relu(x)
    return y, jnp.where(y > 0, tangent, 0)


def extents(pyramid: Pyramid, canvas: Int[Array, "b 2"]) -> dict[int, Int[Array, "b 2"]]:
    """Per level, the height and width that the canvas covers, in cells."""
    return {level: halve(canvas, 2**level) for level in pyramid}


class Conv(nn.Module):
    """Convolution with symmetric padding of half its kernel.

    Its parameters are ``kernel`` (HWIO) and ``bias``.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = kaiming_normal
    bias_init: Initializer = nn.initializers.zeros
    dtype: str = "float32"
    rows_sharded: bool = False  # Several devices share the rows of the map.

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b _ _ f"]:
        side = self.kernel_size
        shape = (side, side, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None
        if side > 1:
            x = zero_beyond(x, extent)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = conv(x, kernel, self.stride, groups=self.groups, rows_sharded=self.rows_sharded)
        return y if bias is None else add_bias(y, bias)


def add_bias(y: Float[Array, "*axes c"], bias: Float[Array, " c"]) -> Float[Array, "*axes c"]:
    """Adds a bias to every cell, in the dtype of the map."""
    y, bias = backward_barrier((y, bias.astype(y.dtype)))
    return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class ConvParameters(nn.Module):
    """``kernel`` (HWIO) and ``bias`` of a convolution that is computed elsewhere."""

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
    """Transposed convolution with a 2x2 kernel and stride 2.

    No windows overlap, so it is one matrix product. Each cell becomes two by two output cells,
    which `interleave` puts in their places.

    Its parameters are ``kernel [2, 2, c, f]``, by row and column of the output cell, and ``bias
    [f]``.
    """

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w 2 2 f"]:
        c = x.shape[-1]
        # PyTorch swaps fan-in and fan-out for a transposed convolution.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        kernel = self.param("kernel", init, (2, 2, c, self.features))
        bias = self.param("bias", torch_bias(4 * self.features), (self.features,))
        matrix = kernel.astype(self.dtype).transpose(2, 0, 1, 3).reshape(c, -1)
        y = matmul(x.astype(self.dtype), matrix).reshape(*x.shape[:3], 2, 2, self.features)
        return add_bias(y, bias)


def interleave(x: Float[Array, "n h w 2 2 c"]) -> Float[Array, "n 2*h 2*w c"]:
    """Puts the two by two output cells of each cell beside those of its neighbours."""
    n, h, w, _, _, c = x.shape
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c)


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics, scale and bias.

    These four vectors are in the collection ``constants``, so no optimizer changes them.
    """

    eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w c"]:
        shape = (x.shape[-1],)
        scale = self.variable("constants", "scale", jnp.ones, shape).value
        bias = self.variable("constants", "bias", jnp.zeros, shape).value
        mean = self.variable("constants", "mean", jnp.zeros, shape).value
        variance = self.variable("constants", "var", jnp.ones, shape).value
        factor = scale * jax.lax.rsqrt(variance + self.eps)
        shift = bias - mean * factor
        return x * _channels(factor, self.dtype) + _channels(shift, self.dtype)


class GroupNorm(nn.Module):
    """Group norm (Wu and He, 2018) over 32 groups of channels.

    Statistics are taken inside the extent, in float32.
    """

    eps: float = 1e-5
    dtype: str = "float32"
    num_groups: int = 32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        groups = x.astype(jnp.float32).reshape(b, h * w, self.num_groups, -1)
        inside = None if extent is None else within((h, w), extent).reshape(b, h * w, 1, 1)
        mean, variance, _ = _moments(groups, inside, (1, 3))
        y = ((groups - mean) * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return (y * _channels(scale, "float32") + _channels(bias, "float32")).astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy, 2015). Statistics are taken inside the extents, in float32.

    If the collection ``batch_stats`` is mutable, it normalises with the statistics of the batch and
    updates the running statistics; otherwise it normalises with the running statistics. As in
    PyTorch, the running variance is unbiased. A batch without cells leaves the running statistics
    unchanged. If one program shards the batch over devices, statistics are those of the whole
    batch.
    """

    eps: float = 1e-5
    dtype: str = "float32"
    momentum: float = 0.1  # Share of the new statistics in the running ones.

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w c"]:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, variance = running_mean.value, running_variance.value
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            inside = None if extent is None else within(x.shape[1:3], extent)
            moments = _moments(x.astype(jnp.float32), inside, (0, 1, 2))
            mean, variance, count = (y.reshape(-1) for y in moments)
            rate = jnp.where(count > 0, self.momentum, 0.0)
            running_mean.value += rate * (mean - running_mean.value)
            unbiased = variance * (count / jnp.maximum(count - 1, 1))
            running_variance.value += rate * (unbiased - running_variance.value)
        factor = scale * jax.lax.rsqrt(variance + self.eps)
        shift = bias - mean * factor
        return x * _channels(factor, self.dtype) + _channels(shift, self.dtype)


def _moments(
    x: Float[Array, "..."], inside: Array | None, axes: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Mean, variance and count of the numbers inside, over some axes; zero where there are none."""
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


def roi_convs(
    pooled: Float[Array, "b r s s c"],
    config: BoxHeadConfig | MaskHeadConfig,
    dtype: str,
    valid: Bool[Array, "b r"] | None,
) -> Float[Array, "n s s f"]:
    """The 3x3 convolutions of a head, over ``n = b * r`` RoIs.

    Layers are named ``conv0``, ``bn0``, ``conv1``, ... in the calling module. A norm takes its
    statistics over the RoIs of valid slots.
    """
    x = pooled.reshape(-1, *pooled.shape[2:])
    extent = None
    if valid is not None:
        extent = jnp.where(valid.reshape(-1, 1), jnp.array(x.shape[1:3]).reshape(1, 2), 0)
    for i in range(config.num_convs):
        has_norm = config.norm != "none"
        x = Conv(config.channels, 3, use_bias=not has_norm, dtype=dtype, name=f"conv{i}")(x)
        if has_norm:
            x = NORMS[config.norm](config.norm_eps, dtype, name=f"bn{i}")(x, extent)
        x = relu(x)
    return x


def recomputed(
    function: Callable[..., Any], name: str, run: Execution, **settings: Any
) -> Callable[..., Any]:
    """A module class or method, rematerialised if ``run.recompute`` contains the name."""
    return nn.remat(function, **settings) if name in run.recompute else function


def as_function(module: nn.Module) -> Callable[..., Any]:
    """A module as a pure function, for the control flow of JAX.

    During initialisation it is the module itself, which must create its parameters.
    """
    if module.is_initializing():
        return module
    unbound, variables = module.unbind()
    return partial(unbound.apply, variables)
