"""RoIAlign as two matrix products per map, ``rows @ map @ columns.T``, for matrix units.

Every RoI multiplies the whole map with weights that are mostly zero. That is many times the
arithmetic of a gather, the same for any boxes. In return nothing is gathered or scattered, results
are repeatable to the bit, and devices that share the rows of a map multiply their own rows and add
the products.

A number in a map that is not finite reaches all RoIs, wherever it is.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskrcnn_jax.ops.loops import varying_zero
from maskrcnn_jax.ops.roi_pooling.placement import RoIs
from maskrcnn_jax.ops.roi_pooling.taps import Rule, axis_matrix
from maskrcnn_jax.ops.slots import join, split

# Bins per axis, over all RoIs of a group: an intermediate result holds the columns of a map so many
# times.
BINS_AT_ONCE = 448

# Weights must keep all bits of the positions: by default accelerators round float32 factors.
_product = partial(
    jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
)


def pool(maps: list[Float[Array, "_h _w c"]], rois: RoIs, rule: Rule) -> Float[Array, "r p p c"]:
    """Pools each RoI from its map, in float32.

    For bfloat16 maps the weights along the columns are rounded to bfloat16.
    """

    def pool_group(group: RoIs) -> Float[Array, "s p p c"]:
        pooled = []
        for i, x in enumerate(maps):
            rows, columns = _matrices(group, i, x.shape, rule)
            # Columns first: the result keeps the rows, which several devices may share.
            across = _product("sqw,hwc->sqhc", columns.astype(x.dtype), x)
            pooled.append(_product("sph,sqhc->spqc", rows, across))
        return sum(pooled)

    pooled = jax.lax.map(pool_group, _split_rois(rois, rule))
    return join(pooled, len(rois.maps))


def transpose(
    gradient: Float[Array, "r p p c"], shapes: list[tuple[int, ...]], rois: RoIs, rule: Rule
) -> list[Float[Array, "_h _w c"]]:
    """The transpose of `pool`, in float32, from factors in the dtype of the gradient.

    Args:
        gradient: The cotangent of the pooled features.
        shapes: Shapes ``(h, w, c)`` of the maps.
        rois: The RoIs that were pooled.
        rule: The rule they were pooled by.
    """

    def add_group(totals: list[Array], group: tuple[RoIs, Array]) -> tuple[list[Array], None]:
        group_rois, group_gradient = group
        for i, shape in enumerate(shapes):
            rows, columns = _matrices(group_rois, i, shape, rule)
            down = _product("sph,spqc->sqhc", rows, group_gradient).astype(gradient.dtype)
            product = _product("sqw,sqhc->hwc", columns.astype(gradient.dtype), down)
            totals[i] = totals[i] + product
        return totals, None

    zero = varying_zero(rois.maps, jnp.float32)
    totals = [jnp.broadcast_to(zero, shape) for shape in shapes]
    return jax.lax.scan(add_group, totals, _split_rois((rois, gradient), rule))[0]


def _matrices(
    rois: RoIs, index: int, shape: tuple[int, ...], rule: Rule
) -> tuple[Float[Array, "s p h"], Float[Array, "s p w"]]:
    """Weights of the rows and columns of one map in each bin; zero for the RoIs of other maps."""
    rows = axis_matrix(rois.rows, shape[0], rule)
    columns = axis_matrix(rois.columns, shape[1], rule)
    return jnp.where((rois.maps == index).reshape(-1, 1, 1), rows, 0), columns


def _split_rois(tree: Any, rule: Rule) -> Any:
    """``[r, ...]`` to ``[groups, s, ...]``; zeros fill the last group."""
    num_rois = len(jax.tree.leaves(tree)[0])
    size = min(max(1, BINS_AT_ONCE // rule.resolution), max(1, num_rois))
    return jax.tree.map(partial(split, size=size), tree)
