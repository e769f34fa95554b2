"""Both ways to gather pool the same: one map after the other on CPUs, all at once elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.roi_pooling import einsum, gather
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


def test_a_gpu_pools_what_a_cpu_pools_whatever_the_samples(pooled_from):
    """With adaptive samples; the next test has two for each bin and axis."""
    rule = Rule(2, 0, False)

    @jax.jit(compiler_options=QUICK_COMPILE)
    def both(maps, rois):
        ways = gather._pool_by_map, gather._pool_at_once
        return [way(maps, rois, rule=rule) for way in ways]

    by_map, at_once = both(*pooled_from)
    assert by_map.shape == (26, 2, 2, 2) and np.abs(by_map).max() > 0.1
    np.testing.assert_allclose(at_once, by_map, atol=1e-5)


def test_a_gpu_and_a_cpu_pool_and_add_what_matrices_do(pooled_from):
    maps, rois = pooled_from
    rule, shapes = Rule(2, 2, False), [x.shape for x in maps]
    gradient = jax.random.normal(jax.random.key(0), (26, 2, 2, 2))

    @jax.jit(compiler_options=QUICK_COMPILE)
    def run(maps, rois, gradient):
        taps = gather._joined_taps(rois, shapes, rule)
        total = jnp.zeros((sum(height * width for height, width, _ in shapes), 2))
        pooled = [way(maps, rois, rule=rule) for way in (gather._pool_by_map, gather._pool_at_once)]
        added = [way(total, gradient, *taps) for way in (gather._add_by_roi, gather._add_at_once)]
        pooled.append(einsum.pool(maps, rois, rule))
        matrices = einsum.transpose(gradient, shapes, rois, rule)
        return pooled, [*added, jnp.concatenate([x.reshape(-1, 2) for x in matrices])]

    for *found, expected in run(maps, rois, gradient):
        assert np.abs(expected).max() > 0.1
        for each in found:
            np.testing.assert_allclose(each, expected, atol=1e-5)
