"""Groups of RoIs that are pooled together: RoIs of one map, or RoIs of about the same size."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from maskrcnn_jax.ops import slots
from maskrcnn_jax.ops.loops import varying_zero
from maskrcnn_jax.ops.rounding import ceil_div

GROUP_SIZE = 16  # RoIs in a group whose number of steps follows the size of its largest RoI.


def split(tree: Any, order: Int[Array, " r"]) -> Any:
    """``[r, ...]`` to ``[groups, s, ...]``, in this order; zeros fill the last group."""
    return jax.tree.map(lambda x: slots.split(x[order], GROUP_SIZE), tree)


def join(tree: Any, order: Int[Array, " r"]) -> Any:
    """The inverse of `split`."""
    position = jnp.argsort(order)
    return jax.tree.map(lambda x: slots.join(x, len(order))[position], tree)


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
    """Pools groups of RoIs of one map from that map, because joining the maps would copy them.

    `jax.vmap` joins images without a copy: the maps of one level become one map, and each RoI has
    the offset of its image in it.

    Args:
        pool_group: Called with the cells of a map, the offset of each RoI's image in them, and the
            group's part of ``rois``.
        maps: The cells of each map, row by row.
        index: The map that each RoI is pooled from.
        rois: Arrays with all RoIs along their first axis.
        resolution: Bins per axis.
        group_size: RoIs in a group; the last group of each map is filled up.
        keys: Order of the RoIs of a map, as for `jnp.lexsort`.
    """
    if not len(index):
        return jnp.zeros((0, resolution, resolution, maps[0].shape[1]), jnp.float32)

    @jax.custom_batching.custom_vmap
    def pool(maps, index, offsets, rois, keys):
        order = jnp.lexsort((*keys, index))
        stops = jnp.searchsorted(index[order], jnp.arange(len(maps)), side="right")
        zero = varying_zero(index, jnp.float32)
        pooled = jnp.broadcast_to(zero, (len(index), resolution, resolution, maps[0].shape[1]))
        start = jnp.zeros_like(index[0])
        for cells, stop in zip(maps, stops, strict=True):

            def add_group(i, pooled, cells=cells, start=start, stop=stop):
                # The last RoI of the map fills up the last group.
                position = start + i * group_size + jnp.arange(group_size)
                group = order[jnp.minimum(position, stop - 1)]
                group_rois = jax.tree.map(lambda x: x[group], rois)
                return pooled.at[group].set(pool_group(cells, offsets[group], group_rois))

            num_groups = ceil_div(stop - start, group_size)
            pooled = jax.lax.fori_loop(0, num_groups, add_group, pooled)
            start = stop
        return pooled

    @pool.def_vmap
    def pool_images(num_images, in_batched, *arguments):
        repeat = partial(_repeat_unless_batched, num_images)
        maps, index, offsets, rois, keys = jax.tree.map(repeat, arguments, tuple(in_batched))
        sizes = jnp.array([x.shape[1] for x in maps])
        offsets = offsets + jnp.arange(num_images).reshape(-1, 1) * sizes[index]
        arguments = maps, index, offsets, rois, keys
        pooled = pool(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arguments))
        return pooled.reshape(num_images, -1, *pooled.shape[1:]), True

    return pool(maps, index, jnp.zeros_like(index), rois, keys)


def _repeat_unless_batched(num_images: int, x: Array, is_batched: bool) -> Array:
    return x if is_batched else jnp.broadcast_to(x, (num_images, *x.shape))
