"""Values that loops need where they are mapped over devices or images."""

from typing import Any

import jax
from jaxtyping import Array, Int, Num


def varying_zero(like: Int[Array, "..."], dtype: Any) -> Num[Array, ""]:
    """A zero for the first value of a loop.

    Inside `shard_map` the first value of a loop must vary over the devices as the result does. A
    constant does not vary; this zero is computed from ``like`` and varies as ``like`` does.
    """
    return (like.sum() * 0).astype(dtype)


@jax.custom_batching.custom_vmap
def batch_max(num_steps: Int[Array, ""]) -> Int[Array, ""]:
    """The largest number of steps of any image of the batch; without `jax.vmap`, the identity.

    If each image had its own number of steps, a mapped loop would select between the old and the
    new value after every step.
    """
    return num_steps


@batch_max.def_vmap
def _batch_max_vmap(axis_size, in_batched, num_steps):
    return batch_max(num_steps.max()), False
