"""RoIAlign as matrix products: its groups, and the transpose of each pooled map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.roi_pooling import einsum
from maskrcnn_jax.ops.roi_pooling.placement import RoIs, Side
from maskrcnn_jax.ops.roi_pooling.taps import Rule
from tests.conftest import QUICK_COMPILE


@pytest.mark.parametrize(
    "num_rois, resolution, expected",
    [(1000, 7, (16, 64)), (64, 7, (1, 64)), (20, 7, (1, 20)), (3, 500, (3, 1)), (0, 7, (0, 1))],
)
def test_a_group_has_a_bounded_number_of_bins(num_rois, resolution, expected):
    shapes = jax.eval_shape(
        lambda x: einsum._split_rois(x, Rule(resolution, 2, False)), jnp.zeros((num_rois, 4))
    )
    assert shapes.shape == (*expected, 4)


def test_rois_read_and_fill_their_own_maps_only():
    """The first RoI is pooled from the coarser map, the second from the finer one."""
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(size=(size, size, 2)), jnp.float32) for size in (6, 3)]
    sizes = jnp.array([3, 6])
    rows = Side(jnp.array([0.5, 1.0]), jnp.array([2.5, 4.0]), sizes)
    columns = Side(jnp.array([0.0, 2.0]), jnp.array([2.0, 5.5]), sizes)
    rois, rule = RoIs(jnp.array([1, 0]), rows, columns), Rule(2, 2, False)

    @jax.jit(compiler_options=QUICK_COMPILE)
    def run(maps, gradient):
        pooled, pull = jax.vjp(lambda maps: einsum.pool(maps, rois, rule), maps)
        return pooled, pull(gradient)[0], einsum.transpose(gradient, shapes, rois, rule)

    shapes = [x.shape for x in maps]
    gradient = jnp.asarray(rng.normal(size=(2, 2, 2, 2)), jnp.float32).at[1].set(0)
    pooled, expected, found = run(maps, gradient)
    assert pooled.shape == (2, 2, 2, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    assert not found[0].any() and found[1].any()  # The second RoI has no gradient.
