"""What a CPU keeps in memory, and until when: worth more there than what XLA would gain by another fusion.

`compiler.jit` has XLA heed this. Elsewhere, and on other platforms, it changes nothing.
"""

from typing import TypeVar

import jax
from jaxtyping import Array, Float

Tree = TypeVar("Tree")


@jax.jit
def materialise(arrays: Tree) -> Tree:
    """The same arrays, all of which exist before the first of them is read, and are not computed once more.

    XLA would rather compute a cheap result again wherever it is read, and keep what it comes from instead, too.
    """
    return jax.lax.platform_dependent(arrays, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_jvp
def relu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """``max(x, 0)``, of which the result alone is kept for the backward pass: the next layer needs it in any case."""
    return materialise(jax.numpy.maximum(x, 0))


@relu.defjvp
def _relu_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = relu(*primals)
    return y, jax.numpy.where(y > 0, *tangents, 0)


@jax.custom_vjp
def together(x: Array, kernel: Array) -> tuple[Array, Array]:
    """Both as they are. Their gradients are computed one after the other, and with them all that is kept for either.

    Nothing waits for the gradient of a kernel but the optimizer: left to itself, XLA computes most of them at the end.
    """
    return x, kernel


def _forward(x: jax.custom_derivatives.CustomVJPPrimal, kernel: jax.custom_derivatives.CustomVJPPrimal):
    # What has no gradient, such as the features of frozen stages, must not be asked for one.
    return (x.value, kernel.value), (None if x.perturbed and kernel.perturbed else ())


def _backward(alone: tuple[()] | None, gradients: tuple[Array, Array]) -> tuple[Array, Array]:
    return gradients if alone is not None else materialise(gradients)


together.defvjp(_forward, _backward, symbolic_zeros=True)
