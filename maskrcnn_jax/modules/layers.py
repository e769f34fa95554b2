"""Layers that all networks share: convolution, ReLU, upsampling by two, fully connected.

Activations are ``[b, h, w, c]``; `extents` explains ``extent``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import BoxHeadConfig, MaskHeadConfig
from maskrcnn_jax.modules.extents import within
from maskrcnn_jax.modules.norms import NORMS, FrozenBatchNorm
from maskrcnn_jax.ops.convolution import conv, matmul
from maskrcnn_jax.xla.barriers import barrier

Initializer = Callable[..., Array]

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
trunc_normal = nn.initializers.truncated_normal(0.02)
# PyTorch's default for a linear layer.
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default for a bias: uniform within ``1 / sqrt(fan_in)`` of zero."""
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def relu(
    x: Float[Array, "*axes"], extent: Int[Array, "b 2"] | None = None
) -> Float[Array, "*axes"]:
    """``max(x, 0)``, and zero beyond the extent.

    Its only residual is its result, which the next layer keeps in any case.
    """
    return _relu(x, None if extent is None else within(x.shape[1:3], extent))


@jax.custom_jvp
def _relu(x: Array, inside: Bool[Array, "b h w 1"] | None) -> Array:
    y = jnp.maximum(x, 0)
    return barrier(y if inside is None else jnp.where(inside, y, 0), gpu=True)


@_relu.defjvp
def _relu_tangent(primals: tuple[Array, Any], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    y = _relu(*primals)
    return y, jnp.where(y > 0, tangents[0], 0)


class Conv(nn.Module):
    """Convolution with symmetric padding of half its kernel.

    With a kernel of more than one cell, maps must be zero beyond their extent. Its parameters are
    ``kernel`` (HWIO) and ``bias``.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    dilation: int = 1  # Distance of the cells that a kernel reads.
    use_bias: bool = True
    kernel_init: Initializer = kaiming_normal
    bias_init: Initializer = nn.initializers.zeros
    dtype: str = "float32"
    rows_sharded: bool = False  # Several devices share the rows of the map.
    per_device: Callable[..., Any] = lambda function: function  # As in `Execution`, for groups.

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], factor: Float[Array, " f"] | None = None
    ) -> Float[Array, "b _ _ f"]:
        """Convolves; ``factor`` scales the channels of the kernel."""
        side = self.kernel_size
        shape = (side, side, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        kernel = kernel if factor is None else kernel * factor.reshape(1, 1, 1, -1)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        settings = {"stride": self.stride, "groups": self.groups, "dilation": self.dilation}
        convolve = partial(conv, rows_sharded=self.rows_sharded, **settings)
        y = (convolve if self.groups == 1 else self.per_device(convolve))(x, kernel)
        if not self.use_bias:
            return y
        return add_bias(y, self.param("bias", self.bias_init, (self.features,)))


def normed(
    conv: Conv, norm: nn.Module, x: Float[Array, "b h w c"], extent: Int[Array, "b 2"] | None
) -> Float[Array, "b _ _ f"]:
    """A convolution without bias, and its norm; ``extent`` is that of the result.

    A frozen batch norm scales the kernel instead of the map, and its shift becomes a bias.
    """
    if not isinstance(norm, FrozenBatchNorm):
        return norm(conv(x), extent)
    factor, shift = norm.factor_and_shift(conv.features)
    return add_bias(conv(x, factor), shift)


@jax.custom_vjp
def add_bias(y: Float[Array, "*axes c"], bias: Float[Array, " c"]) -> Float[Array, "*axes c"]:
    """Adds a bias to every cell, in the dtype of the map. Its gradient is summed in float32."""
    return _to_each_cell(y, bias)


def _add_bias(y: Array, bias: Array) -> tuple[Array, Array]:
    return _to_each_cell(y, bias), bias


def _bias_gradient(bias: Array, cotangent: Array) -> tuple[Array, Array]:
    # By default a GPU sums bfloat16 cotangents in bfloat16.
    wide = cotangent.astype(jnp.float32)
    # JAX transposes the addition, and so sums over the devices of a `shard_map` where it must.
    _, transposed = jax.vjp(partial(_to_each_cell, jnp.zeros_like(wide)), bias)
    return barrier((cotangent, *transposed(wide)))


def _to_each_cell(y: Array, bias: Array) -> Array:
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


add_bias.defvjp(_add_bias, _bias_gradient)


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

    No windows overlap, so it is four matrix products. Each cell becomes two by two output cells:
    the results are their maps, by row, then by column. `interleave` puts them in their places.

    Its parameters are ``kernel [2, 2, c, f]``, by row and column of the output cell, and ``bias
    [f]``.
    """

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> list[Float[Array, "n h w f"]]:
        c = x.shape[-1]
        # PyTorch swaps fan-in and fan-out for a transposed convolution.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        kernel = self.param("kernel", init, (2, 2, c, self.features))
        bias = self.param("bias", torch_bias(4 * self.features), (self.features,))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return [add_bias(matmul(x, kernel[i, j]), bias) for i in range(2) for j in range(2)]


class PatchConv(nn.Module):
    """A convolution whose stride is the side of its kernel, as one matrix product.

    Sides of maps are multiples of it. Its parameters are ``kernel`` (HWIO) and ``bias``.
    """

    features: int
    side: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        b, h, w, channels = x.shape
        side, f = self.side, self.features
        kernel = self.param("kernel", trunc_normal, (side, side, channels, f))
        patches = x.astype(self.dtype).reshape(b, h // side, side, w // side, side, channels)
        patches = jnp.swapaxes(patches, 2, 3).reshape(b, h // side, w // side, -1)
        y = matmul(patches, kernel.reshape(-1, f).astype(self.dtype))
        return add_bias(y, self.param("bias", nn.initializers.zeros, (f,)))


class Projection(nn.Module):
    """A fully connected layer over the channels of a map."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*axes i"]) -> Float[Array, "*axes f"]:
        kernel = self.param("kernel", trunc_normal, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return add_bias(matmul(x.astype(self.dtype), kernel.astype(self.dtype)), bias)


class Linear(nn.Module):
    """A fully connected layer over ``[n, i]``, with PyTorch's initialisation."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "n i"]) -> Float[Array, "n f"]:
        kernel = self.param("kernel", torch_linear, (x.shape[-1], self.features))
        bias = self.param("bias", torch_bias(x.shape[-1]), (self.features,))
        return add_bias(matmul(x.astype(self.dtype), kernel.astype(self.dtype)), bias)


def interleave(maps: list[Float[Array, "n h w *c"]]) -> Float[Array, "n 2*h 2*w *c"]:
    """Joins the maps of the two by two output cells, ordered by row, then by column."""
    n, h, w, *c = maps[0].shape
    cells = jnp.stack(maps, axis=3).reshape(n, h, w, 2, 2, *c)
    return jnp.swapaxes(cells, 2, 3).reshape(n, 2 * h, 2 * w, *c)


def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """``x`` times the normal distribution at ``x`` (Hendrycks and Gimpel, 2016)."""
    return nn.gelu(x, approximate=False)


def without_branches(
    module: nn.Module, y: Float[Array, "b h w c"], share: float
) -> Float[Array, "b h w c"]:
    """Stochastic depth (Huang et al., 2016): sets the branch of a share of the images to zero.

    The others grow, so that the mean stays. This needs the random stream ``drop_path``, which only
    training has.
    """
    if share == 0 or not module.has_rng("drop_path"):
        return y
    keep = jax.random.bernoulli(module.make_rng("drop_path"), 1 - share, (len(y), 1, 1, 1))
    return jnp.where(keep, y / (1 - share), 0)


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
        conv = partial(Conv, config.channels, 3, dtype=dtype, name=f"conv{i}")
        if config.norm == "none":
            x = conv()(x)
        else:
            norm = NORMS[config.norm](config.norm_eps, dtype, name=f"bn{i}")
            x = normed(conv(use_bias=False), norm, x, extent)
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
