"""Both ways to gather pool the same: one map after the other on CPUs, all at once elsewhere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.roi_pooling import gather
from maskrcnn_jax.ops.roi_pooling.placement import place
from maskrcnn_jax.ops.roi_pooling.taps import Rule
from tests.conftest import QUICK_COMPILE
from tests.ops.roi_pooling.test_align import random_boxes, random_pyramid

LEVELS = 2, 3, 4, 5


@pytest.fixture(scope="module")
def pooled_from():
    """Maps with two channels, and RoIs on them."""
    pyramid = random_pyramid(0, channels=2)
    rois = place(jnp.asarray(random_boxes(0)), jnp.array([128, 192]), LEVELS)
    return [pyramid[level] for level in LEVELS], rois


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_a_gpu_pools_what_a_cpu_pools(pooled_from, sampling_ratio):
    rule = Rule(2, sampling_ratio, False)

    @jax.jit(compiler_options=QUICK_COMPILE)
    def both(maps, rois):
        ways = gather._pool_by_map, gather._pool_at_once
        return [way(maps, rois, rule=rule) for way in ways]

    by_map, at_once = both(*pooled_from)
    assert by_map.shape == (26, 2, 2, 2) and np.abs(by_map).max() > 0.1
    np.testing.assert_allclose(at_once, by_map, atol=1e-5)


def test_a_gpu_adds_what_a_cpu_adds(pooled_from):
    maps, rois = pooled_from
    rule, num_cells = Rule(2, 2, False), sum(x.shape[0] * x.shape[1] for x in maps)
    gradient = jax.random.normal(jax.random.key(0), (26, 2, 2, 2))

    @partial(jax.jit, compiler_options=QUICK_COMPILE)
    def both(rois, gradient):
        taps = gather._joined_taps(rois, [x.shape for x in maps], rule)
        total = jnp.ones((num_cells, 2))
        ways = gather._add_by_roi, gather._add_at_once
        return [way(total, gradient, *taps) for way in ways]

    by_roi, at_once = both(rois, gradient)
    assert np.abs(by_roi - 1).max() > 0.1
    np.testing.assert_allclose(at_once, by_roi, atol=1e-5)
