"""Working through RoIs in groups that need about as many steps, where the number of steps follows their size."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

GROUP_SIZE = 16  # RoIs that are worked through together.


def split(tree: Any, order: Int[Array, " r"]) -> Any:
    """``[r, ...]`` to ``[groups, s, ...]``, in this order; the last group is filled up with zeros."""

    def split_array(x: Array) -> Array:
        x = jnp.pad(x[order], [(0, -len(order) % GROUP_SIZE)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, GROUP_SIZE, *x.shape[1:])

    return jax.tree.map(split_array, tree)


def join(tree: Any, order: Int[Array, " r"]) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[jnp.argsort(order)], tree)


@jax.custom_batching.custom_vmap
def batch_max(num_steps: Int[Array, ""]) -> Int[Array, ""]:
    """The most steps any image of the batch needs.

    With a number for each image, a mapped loop would select between the old and the new total after every step.
    """
    return num_steps


@batch_max.def_vmap
def _batch_max_vmap(axis_size, in_batched, num_steps):
    return batch_max(num_steps.max()), False
