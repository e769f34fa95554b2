"""The cells that RoIAlign reads along one axis and their weights, by the rule of the C++ kernels.

A bilinear sample is a weighted sum of four cells, the product of two cells per axis. The mean of
all samples of a bin is such a product too, so rows and columns are treated separately and alike.
`adaptive` is the counterpart where the number of samples depends on the size of each RoI.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskrcnn_jax.ops.roi_pooling import adaptive
from maskrcnn_jax.ops.roi_pooling.placement import Side


class Rule(NamedTuple):
    """Parameters of RoIAlign."""

    resolution: int  # Bins per axis.
    sampling_ratio: int  # Samples per bin and axis; 0 is adaptive.
    aligned: bool  # Shift RoIs by half a cell.


class Taps(NamedTuple):
    """Cells and their weights along one axis; ``t`` counts both neighbours of every sample."""

    cells: Int[Array, "r p t"]
    weights: Float[Array, "r p t"]


def axis_taps(side: Side, rule: Rule) -> Taps:
    """The cells beside each sample of a bin, for a fixed number of samples."""
    start, stop, size = (x.reshape(-1, 1, 1) for x in side)
    length = stop - start
    if rule.aligned:
        start = start - 0.5
    else:
        length = jnp.maximum(length, 1)
    bins = jnp.arange(rule.resolution).reshape(1, -1, 1)
    samples = (jnp.arange(rule.sampling_ratio) + 0.5).reshape(1, 1, -1)
    width = length / rule.resolution
    position = start + bins * width + samples * width / rule.sampling_ratio  # [r, p, s]
    inside = (position >= -1) & (position <= size)  # False for NaN.
    position = jnp.where(inside, jnp.clip(position, 0, size - 1), 0)
    low = position.astype(jnp.int32)
    fraction = position - low
    high = jnp.minimum(low + 1, size - 1)
    weights = jnp.concatenate([1 - fraction, fraction], axis=-1)
    weights *= jnp.concatenate([inside, inside], axis=-1) / rule.sampling_ratio
    return Taps(jnp.concatenate([low, high], axis=-1), weights)


def axis_matrix(side: Side, length: int, rule: Rule) -> Float[Array, "r p {length}"]:
    """The weight of each of the ``length`` cells of a map in each bin, along one axis.

    The map of an RoI may end before its array does: ``side.size <= length``.
    """
    if rule.sampling_ratio == 0:
        samples = adaptive.axis_samples(*side, resolution=rule.resolution, aligned=rule.aligned)
        return adaptive.axis_matrix(samples, length, rule.resolution)
    cells, weights = axis_taps(side, rule)
    hit = jnp.expand_dims(cells, 3) == jnp.arange(length).reshape(1, 1, 1, -1)
    return jnp.where(hit, jnp.expand_dims(weights, 3), 0).sum(axis=2)
