"""Optimisation barriers, mostly for CPUs: they bound the live ranges of large arrays.

The price is some fusions. On a single CPU, the options of `xla.compiler` make XLA keep the
barriers; on other platforms they are the identity, unless they are asked for.
"""

from functools import partial
from operator import attrgetter
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

Tree = TypeVar("Tree")


def barrier(arrays: Tree, *, gpu: bool = False) -> Tree:
    """Identity; all arrays are computed before any of them is used, and none is computed again.

    Without a barrier, XLA recomputes a cheap result at each use and keeps its operands alive.

    Args:
        arrays: A tree of arrays.
        gpu: Whether GPUs too keep the barrier.
    """
    # In a manual `shard_map`, a barrier would mark a sum over the devices as varying over them.
    return arrays if jax.sharding.get_abstract_mesh().manual_axes else _barrier(arrays, gpu)


@partial(jax.jit, static_argnums=1)
def _barrier(arrays: Tree, gpu: bool) -> Tree:
    platforms = ("cpu", "cuda", "rocm") if gpu else ("cpu",)
    by_platform = dict.fromkeys(platforms, jax.lax.optimization_barrier)
    return jax.lax.platform_dependent(arrays, **by_platform, default=lambda x: x)


@jax.custom_vjp
def backward_barrier(arrays: Tree) -> Tree:
    """Identity whose cotangents are all computed before any of them is used.

    It makes the backward pass finish a layer, and free its residuals, before it starts the next.
    Otherwise XLA computes the gradients of kernels and biases last, because only the optimizer
    reads them.
    """
    return arrays


def _forward(arrays: Tree) -> tuple[Tree, tuple[()] | None]:
    values = jax.tree.map(attrgetter("value"), arrays)
    perturbed = jax.tree.map(attrgetter("perturbed"), arrays)
    # An array without a gradient, such as a feature of a frozen stage, must not get a cotangent.
    return values, (() if all(jax.tree.leaves(perturbed)) else None)


def _backward(all_perturbed: tuple[()] | None, cotangents: Tree) -> tuple[Tree]:
    cotangents = jax.tree.map(_as_array, cotangents)
    return (cotangents if all_perturbed is None else barrier(cotangents),)


def _as_array(cotangent: Array | SymbolicZero) -> Array:
    if isinstance(cotangent, SymbolicZero):
        return jnp.zeros(cotangent.shape, cotangent.dtype)
    return cotangent


backward_barrier.defvjp(_forward, _backward, symbolic_zeros=True)
