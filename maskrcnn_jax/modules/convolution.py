"""Convolution with symmetric padding."""

import jax
from jaxtyping import Array, Float


def conv(x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int) -> Float[Array, "b h2 w2 o"]:
    """Convolves with zero padding of half a kernel on every side: ``h2 = ceil(h / stride)`` for odd kernels.

    The result has the dtype of ``x``.
    """
    if kernel.shape[:2] == (1, 1):  # A matrix product is faster than a 1x1 convolution, most of all backward.
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
