"""Matrix product of the channels of maps."""

from jaxtyping import Array, Float

from maskrcnn_jax.modules.materialise import together


def matmul(x: Float[Array, "*axes i"], matrix: Float[Array, "i o"]) -> Float[Array, "*axes o"]:
    """``x @ matrix``, as the product of two matrices, whose gradients are computed together.

    It is the gradient by ``matrix`` that gains: of an array of more axes XLA makes a transposed copy first, and on a
    CPU that takes longer than the product itself.
    """
    cells, matrix = together((x.reshape(-1, x.shape[-1]), matrix))
    return (cells @ matrix).reshape(*x.shape[:-1], matrix.shape[1])
