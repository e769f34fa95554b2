"""Convolution with symmetric padding, and the matrix product over the channels of a map."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maskrcnn_jax.ops import winograd
from maskrcnn_jax.ops.rounding import ceil_div
from maskrcnn_jax.xla.barriers import backward_barrier, barrier

FEW_CHANNELS = 4  # Pictures have at most so many.


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i_per_group o"],
    stride: int,
    *,
    groups: int = 1,
    dilation: int = 1,
    rows_sharded: bool = False,
) -> Float[Array, "b h2 w2 o"]:
    """Convolves with zero padding of half a kernel on every side.

    The result has ``h2 = ceil(h / stride)`` rows for odd kernels, and the dtype of ``x``. Large 3x3
    convolutions in float32 use Winograd's algorithm where the program is compiled for a CPU; they
    are differentiable in reverse mode only. On a TPU, the first convolution of a picture takes
    pairs of its rows.

    Args:
        x: Feature maps, or pictures.
        kernel: HWIO.
        stride: Of both axes.
        groups: Number of equal groups of channels; each group of output channels reads its own
            group of input channels.
        dilation: Distance of the cells that a kernel reads; 1 for neighbours.
        rows_sharded: Several devices share the rows of ``x``. XLA partitions a direct convolution
            well, and no other form.
    """
    if kernel.shape[:2] == (1, 1) and groups == 1:
        product = partial(_product, stride=stride, rows_sharded=rows_sharded)
        direct = partial(_direct, stride=stride)
        return jax.lax.platform_dependent(x, kernel, tpu=direct, default=product)
    x, kernel = backward_barrier((x, kernel))
    is_plain = (stride, groups, dilation) == (1, 1, 1)
    by_winograd = is_plain and not rows_sharded and x.dtype == jnp.float32
    if by_winograd and winograd.is_faster(x.shape, kernel.shape):
        return _conv3x3(x, kernel)
    if groups > 1 and kernel.shape[2] > 1:
        return _grouped(x, kernel, stride, groups, dilation)
    direct = partial(_direct, stride=stride, groups=groups, dilation=dilation)
    has_few_channels = x.shape[3] <= FEW_CHANNELS and x.shape[1] % 2 == 0 and not rows_sharded
    if has_few_channels and (stride, groups, dilation) == (2, 1, 1):
        return jax.lax.platform_dependent(x, kernel, tpu=_by_pairs_of_rows, default=direct)
    return direct(x, kernel)


def matmul(x: Float[Array, "*axes i"], matrix: Float[Array, "i o"]) -> Float[Array, "*axes o"]:
    """``x @ matrix``, as the product of two matrices.

    This makes the gradient by ``matrix`` faster: XLA would transpose an array of more axes first,
    and on a CPU the copy takes longer than the product.
    """
    cells, matrix = backward_barrier((x.reshape(-1, x.shape[-1]), matrix))
    return (cells @ matrix).reshape(*x.shape[:-1], matrix.shape[1])


def _product(
    x: Float[Array, "b h w i"], kernel: Float[Array, "1 1 i o"], *, stride: int, rows_sharded: bool
) -> Float[Array, "b h2 w2 o"]:
    """A 1x1 convolution as a matrix product: faster, most of all in the backward pass.

    A TPU would copy the map into another layout first.
    """
    x, matrix = x[:, ::stride, ::stride], kernel[0, 0]
    return x @ matrix if rows_sharded else matmul(x, matrix)


@jax.custom_vjp
def _conv3x3(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b h w o"]:
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=_direct)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv3x3(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    # The forward pass transforms x into larger arrays. The barrier makes the gradient of the kernel
    # transform x again instead of keeping them alive.
    x, kernel, cotangent = barrier((*residuals, cotangent))
    # The cotangent of x is a convolution with the kernel rotated by half a turn.
    x_cotangent = _conv3x3(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))

    def direct_kernel_gradient(x: Array, cotangent: Array) -> Array:
        return jax.vjp(partial(_direct, x), kernel)[1](cotangent)[0]

    kernel_cotangent = jax.lax.platform_dependent(
        x, cotangent, cpu=winograd.kernel_gradient, default=direct_kernel_gradient
    )
    return x_cotangent, kernel_cotangent


_conv3x3.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _grouped(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    stride: int,
    groups: int,
    dilation: int,
) -> Float[Array, "b h2 w2 o"]:
    return _direct(x, kernel, stride, groups, dilation)


def _grouped_forward(x: Array, kernel: Array, *settings: int) -> tuple[Array, tuple[Array, Array]]:
    return _direct(x, kernel, *settings), (x, kernel)


def _grouped_backward(
    stride: int, groups: int, dilation: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    settings = {"stride": stride, "groups": groups, "dilation": dilation}
    direct, by_taps = (partial(f, **settings) for f in (_direct, _by_taps))
    (x_cotangent,) = jax.vjp(lambda x: direct(x, kernel), x)[1](cotangent)

    def kernel_cotangent(convolve: Callable[..., Array], x: Array, cotangent: Array) -> Array:
        return jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](cotangent)[0]

    # On a CPU, XLA's own gradient takes fifty times as long.
    forms = {"cpu": partial(kernel_cotangent, by_taps)}
    forms["default"] = partial(kernel_cotangent, direct)
    return x_cotangent, jax.lax.platform_dependent(x, cotangent, **forms)


_grouped.defvjp(_grouped_forward, _grouped_backward)


def _by_taps(
    x: Array, kernel: Array, *, stride: int, groups: int, dilation: int
) -> Float[Array, "b h2 w2 o"]:
    """As `_direct`, a product of matrices for each tap of the kernel."""
    *sides, num_inputs, num_outputs = kernel.shape
    height, width = (ceil_div(side, stride) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *_padding(kernel, dilation), (0, 0)))
    total = jnp.zeros((), x.dtype)
    for row, column in np.ndindex(*sides):
        seen = x[:, row * dilation :: stride, column * dilation :: stride][:, :height, :width]
        seen = seen.reshape(*seen.shape[:3], groups, num_inputs)
        tap = kernel[row, column].reshape(num_inputs, groups, -1)
        total += jnp.einsum("bhwgi,igo->bhwgo", seen, tap)
    return total.reshape(*total.shape[:3], num_outputs)


def _by_pairs_of_rows(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"]
) -> Float[Array, "b h2 w2 o"]:
    """As `_direct` with a stride of 2 and an even ``h``: two rows become one of twice the channels.

    Few channels leave the matrix units of a TPU idle.
    """
    b, h, w, c = x.shape
    half = kernel.shape[0] // 2
    above, below = ceil_div(half, 2), half // 2  # Pairs of rows that the kernel reads.
    count = above + 1 + below
    first = 2 * above - half
    last = 2 * count - first - kernel.shape[0]
    kernel = jnp.pad(kernel, ((first, last), (0, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(count, 2, *kernel.shape[1:]).swapaxes(1, 2)
    return jax.lax.conv_general_dilated(
        x.reshape(b, h // 2, 2, w, c).swapaxes(2, 3).reshape(b, h // 2, w, 2 * c),
        kernel.reshape(*kernel.shape[:2], 2 * c, -1),
        window_strides=(1, 2),
        padding=[(above, below), (kernel.shape[1] // 2,) * 2],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _direct(
    x: Array, kernel: Array, stride: int = 1, groups: int = 1, dilation: int = 1
) -> Float[Array, "b h2 w2 o"]:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=_padding(kernel, dilation),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _padding(kernel: Array, dilation: int) -> list[tuple[int, int]]:
    """Half the extent of a kernel on both sides of both axes."""
    return [(side // 2 * dilation,) * 2 for side in kernel.shape[:2]]
