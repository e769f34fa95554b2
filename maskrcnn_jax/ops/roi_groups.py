"""Working through RoIs in groups: of one map each, or such that need about as many steps, which follow their size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

GROUP_SIZE = 16  # RoIs that are worked through together where the number of steps follows their size.


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


def pool_by_map(
    pool_group: Callable[[Num[Array, "n c"], Int[Array, " s"], Any], Float[Array, "s p p c"]],
    maps: list[Num[Array, "_n c"]],
    index: Int[Array, " r"],
    rois: Any,
    *,
    resolution: int,
    group_size: int,
    keys: tuple[Int[Array, " r"], ...] = (),
) -> Float[Array, "r p p c"]:
    """Pools groups of RoIs of one map, from the map itself: to join all maps would be to copy them.

    `jax.vmap` joins images instead, without a copy: the maps of a level are one map then, and RoIs have an offset.

    Args:
        pool_group: Of a map, the offset of each RoI's image in it, and this group's part of ``rois``.
        maps: Cells, row by row.
        index: Of the map that each RoI is pooled from.
        rois: Arrays with all RoIs along their first axis.
        keys: Order of the RoIs of a map, as for `jnp.lexsort`.
    """
    if not len(index):
        return jnp.zeros((0, resolution, resolution, maps[0].shape[1]), jnp.float32)

    @jax.custom_batching.custom_vmap
    def pool(maps, index, offsets, rois, keys):
        order = jnp.lexsort((*keys, index))
        stops = jnp.searchsorted(index[order], jnp.arange(len(maps)), side="right")
        # Not a constant: loops inside `shard_map` must start with a value that varies as their result does.
        zero = (index.sum() * 0).astype(jnp.float32)
        pooled = jnp.broadcast_to(zero, (len(index), resolution, resolution, maps[0].shape[1]))
        start = jnp.zeros_like(index[0])
        for cells, stop in zip(maps, stops, strict=True):

            def add_group(i, pooled, cells=cells, start=start, stop=stop):
                # The last group is filled up with the last RoI.
                group = order[jnp.minimum(start + i * group_size + jnp.arange(group_size), stop - 1)]
                values = pool_group(cells, offsets[group], jax.tree.map(lambda x: x[group], rois))
                return pooled.at[group].set(values)

            num_groups = -((start - stop) // group_size)
            pooled = jax.lax.fori_loop(0, num_groups, add_group, pooled)
            start = stop
        return pooled

    @pool.def_vmap
    def pool_images(count, in_batched, *arguments):
        maps, index, offsets, rois, keys = jax.tree.map(
            lambda x, batched: x if batched else jnp.broadcast_to(x, (count, *x.shape)), arguments, tuple(in_batched)
        )
        sizes = jnp.array([x.shape[1] for x in maps])
        offsets = offsets + jnp.arange(count).reshape(-1, 1) * sizes[index]
        joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (maps, index, offsets, rois, keys))
        pooled = pool(*joined)
        return pooled.reshape(count, -1, *pooled.shape[1:]), True

    return pool(maps, index, jnp.zeros_like(index), rois, keys)
