"""Normalisation layers: frozen batch norm, batch norm, group norm, layer norm.

They scale and shift the channels of maps ``[b, h, w, c]``. Statistics are taken inside the extents,
in float32.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.modules.extents import within
from maskrcnn_jax.xla.barriers import barrier


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics, and with fixed or trained scale and bias.

    Fixed vectors are in the collection ``constants``, so no optimizer changes them.
    """

    eps: float = 1e-5
    dtype: str = "float32"
    affine_trains: bool = False

    def __call__(
        self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w c"]:
        factor, shift = self.factor_and_shift(x.shape[-1])
        return x * _channels(factor, self.dtype) + _channels(shift, self.dtype)

    @nn.compact
    def factor_and_shift(self, channels: int) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """The norm is ``x * factor + shift``; float32."""
        if self.affine_trains:
            scale = self.param("scale", nn.initializers.ones, (channels,))
            bias = self.param("bias", nn.initializers.zeros, (channels,))
        else:
            scale = self.variable("constants", "scale", jnp.ones, (channels,)).value
            bias = self.variable("constants", "bias", jnp.zeros, (channels,)).value
        mean = self.variable("constants", "mean", jnp.zeros, (channels,)).value
        variance = self.variable("constants", "var", jnp.ones, (channels,)).value
        factor = scale * jax.lax.rsqrt(variance + self.eps)
        return factor, bias - mean * factor


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
        groups = x.astype(jnp.float32).reshape(b, h, w, self.num_groups, -1)
        inside = None if extent is None else within((h, w), extent).reshape(b, h, w, 1, 1)
        mean, variance, _ = _moments(groups, inside, (1, 2, 4), first=(2, 4))
        y = ((groups - mean) * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return (y * _channels(scale, "float32") + _channels(bias, "float32")).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer norm (Ba et al., 2016) over the channels of each cell, with float32 statistics."""

    eps: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None = None
    ) -> Float[Array, "b h w c"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        cells = x.astype(jnp.float32)
        centred = cells - cells.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps)
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
    x: Float[Array, "..."],
    inside: Array | None,
    axes: tuple[int, ...],
    first: tuple[int, ...] = (),
) -> tuple[Array, Array, Array]:
    """Mean, variance and count of the numbers inside, over some axes; zero where there are none.

    A CPU adds all numbers of a sum one by one, and half a million of them lose two digits of
    float32. So axes may be summed ``first``.
    """
    inside = jnp.ones((1,) * x.ndim, bool) if inside is None else inside
    repeats = math.prod(x.shape[axis] // inside.shape[axis] for axis in axes)
    count = repeats * inside.sum(axes, keepdims=True, dtype=jnp.float32)

    def average(y: Array) -> Array:
        y = jnp.where(inside, y, 0)
        if first:  # Without the barrier, XLA makes one sum of both.
            y = barrier(y.sum(first, keepdims=True))
        return y.sum(axes, keepdims=True) / jnp.maximum(count, 1)

    mean = average(x)
    return mean, average(jnp.square(x - mean)), count


NORMS = {
    "frozen_batch": FrozenBatchNorm,
    "fixed_batch": partial(FrozenBatchNorm, affine_trains=True),
    "batch": BatchNorm,
    "group": GroupNorm,
    "layer": LayerNorm,
}


def _channels(vector: Float[Array, " c"], dtype: str) -> Float[Array, "1 1 1 c"]:
    return vector.astype(dtype).reshape(1, 1, 1, -1)
