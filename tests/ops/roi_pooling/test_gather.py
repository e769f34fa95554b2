"""The gather for GPUs, all RoIs at once; test_align.py runs that for CPUs."""

import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax.ops.roi_pooling import einsum, gather
from maskrcnn_jax.ops.roi_pooling.placement import place
from maskrcnn_jax.ops.roi_pooling.taps import Rule
from tests.conftest import QUICK_COMPILE
from tests.ops.roi_pooling.test_align import random_boxes, random_pyramid

LEVELS = 2, 3


def test_all_rois_at_once_pool_and_add_what_matrices_do():
    pyramid = random_pyramid(0, 64, 96, channels=2, levels=LEVELS)
    maps, rule = [pyramid[level] for level in LEVELS], Rule(2, 2, False)
    shapes = [x.shape for x in maps]
    gradient = jax.random.normal(jax.random.key(0), (26, 2, 2, 2))

    @jax.jit(compiler_options=QUICK_COMPILE)
    def run(maps, boxes, gradient):
        rois = place(boxes, jnp.array([64, 96]), LEVELS)
        taps = gather._joined_taps(rois, shapes, rule)
        total = jnp.zeros((sum(height * width for height, width, _ in shapes), 2))
        pooled = gather._pool_at_once(maps, rois, rule=rule), einsum.pool(maps, rois, rule)
        matrices = einsum.transpose(gradient, shapes, rois, rule)
        expected = jnp.concatenate([x.reshape(-1, 2) for x in matrices])
        return pooled, (gather._add_at_once(total, gradient, *taps), expected)

    for found, expected in run(maps, jnp.asarray(random_boxes(0, 64, 96)), gradient):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, atol=1e-5)
