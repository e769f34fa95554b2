"""Convolution with symmetric padding, in the form that suits kernel and platform."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskrcnn_jax.modules import winograd
from maskrcnn_jax.modules.materialise import materialise, together
from maskrcnn_jax.modules.matmul import matmul


def conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int, *, divided: bool = False
) -> Float[Array, "b h2 w2 o"]:
    """Convolves with zero padding of half a kernel on every side: ``h2 = ceil(h / stride)`` for odd kernels.

    Large 3x3 convolutions in float32 go by Winograd's algorithm where the program is compiled for a CPU; these are
    differentiable in reverse mode only.

    Args:
        divided: Several devices share the rows of ``x``: XLA divides a direct convolution well, and no other form.

    Returns:
        The result in the dtype of ``x``.
    """
    if kernel.shape[:2] == (1, 1):  # A matrix product is faster than a 1x1 convolution, most of all backward.
        x, matrix = x[:, ::stride, ::stride], kernel[0, 0]
        return x @ matrix if divided else matmul(x, matrix)
    x, kernel = together((x, kernel))
    if stride == 1 and not divided and x.dtype == jnp.float32 and winograd.pays_off(x.shape, kernel.shape):
        return _conv3x3(x, kernel)
    return _direct(x, kernel, stride)


@jax.custom_vjp
def _conv3x3(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=_direct)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv3x3(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def directly(x: Array, gradient: Array) -> Array:
        return jax.vjp(partial(_direct, x), kernel)[1](gradient)[0]

    # Else what the forward pass made of x would be kept for the gradient by the kernel, which is larger than x.
    x, kernel, gradient = materialise((*residuals, gradient))
    # The gradient by x is a convolution with the kernel turned round.
    by_x = _conv3x3(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    return by_x, jax.lax.platform_dependent(x, gradient, cpu=winograd.kernel_gradient, default=directly)


_conv3x3.defvjp(_forward, _backward)


def _direct(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int = 1) -> Array:
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
