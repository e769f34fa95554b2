"""RoIAlign as two matrix products per map, ``rows @ map @ columns.T``, for machines that are best at those.

Every RoI multiplies the whole map with weights that are mostly zero. That is many times the arithmetic of reading the
right cells, the same for any boxes; but nothing is gathered or scattered, results are repeatable to the bit, and where
the rows of a map are spread over devices, each multiplies its own and the products are added.

A number that is not finite reaches all RoIs, wherever on a map it is.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskrcnn_jax.ops.roi_taps import RoIs, Rule, axis_matrix

BINS_AT_ONCE = 448  # Per axis, over RoIs: an intermediate result has so many copies of the columns of a map.

# Positions must not be rounded: by default accelerators multiply float32 with fewer bits.
_product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def pool(maps: list[Float[Array, "_h _w c"]], rois: RoIs, rule: Rule) -> Float[Array, "r p p c"]:
    """Pools each RoI from its map, in float32; for bfloat16 maps, weights along one axis are rounded to bfloat16."""

    def pool_group(group: RoIs) -> Float[Array, "s p p c"]:
        pooled = []
        for i, x in enumerate(maps):
            rows, columns = _matrices(group, i, x.shape, rule)
            # Columns first: the result keeps the rows, which may be spread over devices.
            across = _product("sqw,hwc->sqhc", columns.astype(x.dtype), x)
            pooled.append(_product("sph,sqhc->spqc", rows, across))
        return sum(pooled)

    pooled = jax.lax.map(pool_group, _split(rois, rule))
    return pooled.reshape(-1, *pooled.shape[2:])[: len(rois.maps)]


def transpose(
    gradient: Float[Array, "r p p c"], shapes: list[tuple[int, ...]], rois: RoIs, rule: Rule
) -> list[Float[Array, "_h _w c"]]:
    """The products of `pool` the other way round; float32, from factors of the gradient's dtype."""

    def add_group(totals: list[Array], group: tuple[RoIs, Array]) -> tuple[list[Array], None]:
        group_rois, group_gradient = group
        for i, shape in enumerate(shapes):
            rows, columns = _matrices(group_rois, i, shape, rule)
            down = _product("sph,spqc->sqhc", rows, group_gradient).astype(gradient.dtype)
            totals[i] = totals[i] + _product("sqw,sqhc->hwc", columns.astype(gradient.dtype), down)
        return totals, None

    # Not a constant: a scan inside `shard_map` must start with a value that varies as its result does.
    zero = (rois.maps.sum() * 0).astype(jnp.float32)
    totals = [jnp.broadcast_to(zero, shape) for shape in shapes]
    return jax.lax.scan(add_group, totals, _split((rois, gradient), rule))[0]


def _matrices(
    rois: RoIs, index: int, shape: tuple[int, ...], rule: Rule
) -> tuple[Float[Array, "s p h"], Float[Array, "s p w"]]:
    """Weights of the rows and columns of one map in each bin; zero for the RoIs of other maps."""
    rows = axis_matrix(rois.rows, shape[0], rule)
    return jnp.where((rois.maps == index).reshape(-1, 1, 1), rows, 0), axis_matrix(rois.columns, shape[1], rule)


def _split(tree: Any, rule: Rule) -> Any:
    """``[r, ...]`` to ``[groups, s, ...]``; the last group is filled up with zeros."""
    size = max(1, BINS_AT_ONCE // rule.resolution)

    def split(x: Array) -> Array:
        count = max(1, min(size, len(x)))
        x = jnp.pad(x, [(0, -len(x) % count)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, count, *x.shape[1:])

    return jax.tree.map(split, tree)
