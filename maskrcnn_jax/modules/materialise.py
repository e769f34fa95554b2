"""What a CPU keeps in memory, and until when: worth more there than what XLA would gain by another fusion.

`compiler.jit` has XLA heed this. Elsewhere, and on other platforms, it changes nothing.
"""

from operator import attrgetter
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

Tree = TypeVar("Tree")


def materialise(arrays: Tree) -> Tree:
    """The same arrays, all of which exist before the first of them is read, and are not computed once more.

    XLA would rather compute a cheap result again wherever it is read, and keep what it comes from instead, too.
    """
    # A barrier would make a sum over the devices of a `shard_map` vary among them, like the arrays beside it.
    return arrays if jax.sharding.get_abstract_mesh().manual_axes else _materialise(arrays)


@jax.jit
def _materialise(arrays: Tree) -> Tree:
    return jax.lax.platform_dependent(arrays, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_jvp
def relu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """``max(x, 0)``, of which the result alone is kept for the backward pass: the next layer needs it in any case."""
    return materialise(jnp.maximum(x, 0))


@relu.defjvp
def _relu_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = relu(x)
    return y, jnp.where(y > 0, tangent, 0)


@jax.custom_vjp
def together(arrays: Tree) -> Tree:
    """The same arrays, whose gradients exist before the first of them is read on.

    So a backward pass finishes with one layer, and lets go of what was kept for it, before it goes on to the next:
    nothing but the optimizer waits for the gradients of kernels and biases, and XLA would compute most of them last.
    """
    return arrays


def _forward(arrays: Tree) -> tuple[Tree, tuple[()] | None]:
    values, has_gradient = (jax.tree.map(attrgetter(name), arrays) for name in ("value", "perturbed"))
    # What has none, such as the features of frozen stages, must not be asked for one.
    return values, (() if all(jax.tree.leaves(has_gradient)) else None)


def _backward(all_have: tuple[()] | None, gradients: Tree) -> tuple[Tree]:
    gradients = jax.tree.map(_as_array, gradients)
    return (gradients if all_have is None else materialise(gradients),)


def _as_array(gradient: Array | SymbolicZero) -> Array:
    return jnp.zeros(gradient.shape, gradient.dtype) if isinstance(gradient, SymbolicZero) else gradient


together.defvjp(_forward, _backward, symbolic_zeros=True)


@jax.custom_vjp
def kernel_last(x: Array, kernel: Array) -> tuple[Array, Array]:
    """The same arrays; the gradient by ``x`` is read on at once, that by the kernel when both exist.

    For a kernel that is larger than ``x`` and its gradient, of which its own can be made at the end. Without any order,
    the optimizer might overwrite the kernel before the gradient by ``x`` is made of it: XLA would copy it.
    """
    return x, kernel


def _forward_kernel_last(x: Array, kernel: Array) -> tuple[tuple[Array, Array], None]:
    return (x, kernel), None


def _backward_kernel_last(_: None, gradients: tuple[Array, Array]) -> tuple[Array, Array]:
    by_x, by_kernel = gradients
    return by_x, materialise((by_x, by_kernel))[1]


kernel_last.defvjp(_forward_kernel_last, _backward_kernel_last)
