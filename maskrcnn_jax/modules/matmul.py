"""Matrix product of the channels of maps."""

from jaxtyping import Array, Float


def matmul(x: Float[Array, "*axes i"], matrix: Float[Array, "i o"]) -> Float[Array, "*axes o"]:
    """``x @ matrix``, as the product of two matrices.

    It is the gradient by ``matrix`` that gains: of an array of more axes XLA makes a transposed copy first, and on a
    CPU that takes longer than the product itself.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[1])
