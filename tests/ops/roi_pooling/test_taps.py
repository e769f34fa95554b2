"""The cells and weights of RoIAlign along one axis."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.roi_pooling.placement import Side
from maskrcnn_jax.ops.roi_pooling.taps import Rule, axis_matrix, axis_taps
from tests import oracles
from tests.conftest import QUICK_COMPILE

quick = partial(jax.jit, compiler_options=QUICK_COMPILE)
SIZE = 8
# Inside, across both borders, thin, far outside, inside out.
EDGES = [[1.3, 5.9], [-3.0, 9.5], [2.0, 2.25], [30.0, 40.0], [6.0, 1.0]]


def side(edges, size=SIZE):
    start, stop = np.array(edges, np.float32).T
    return Side(jnp.asarray(start), jnp.asarray(stop), jnp.full(len(start), size, jnp.int32))


@pytest.mark.parametrize("rule", [Rule(3, 2, False), Rule(3, 2, True), Rule(2, 0, True)])
def test_the_matrix_pools_as_a_loop_over_samples(rule):
    """Along a map of one row, and boxes as high as that row."""
    matrix = quick(partial(axis_matrix, length=SIZE, rule=rule))
    weights = np.asarray(matrix(side(EDGES)))
    boxes = np.array([[x0, 0, x1, 1] for x0, x1 in EDGES])
    columns = np.eye(SIZE)[None]  # One channel for each cell.
    for i, box in enumerate(boxes):
        x0, x1 = box[[0, 2]] - 0.5 * rule.aligned
        length = x1 - x0 if rule.aligned else max(x1 - x0, 1.0)
        count = oracles.samples_per_bin(length, rule.resolution, rule.sampling_ratio)
        for j in range(rule.resolution):
            positions = [
                x0 + (j + (k + 0.5) / count) * length / rule.resolution for k in range(count)
            ]
            cells = [oracles.bilinear(columns, 0.0, x) for x in positions]
            expected = sum(cells, np.zeros(SIZE)) / max(count, 1)
            np.testing.assert_allclose(weights[i, j], expected, atol=1e-5)


def test_a_map_may_end_before_its_array():
    rule = Rule(2, 2, False)

    @quick
    def both(side):
        return [axis_matrix(side, length, rule) for length in (5, 8)]

    short, long = map(np.asarray, both(side(EDGES[:2], size=5)))
    np.testing.assert_array_equal(long[:, :, :5], short)
    assert not long[:, :, 5:].any()


def test_both_neighbours_of_a_sample_share_its_weight():
    """Two bins of one cell on the cells 2 and 3: the samples lie at 2.25, 2.75, 3.25 and 3.75."""
    taps = quick(partial(axis_taps, rule=Rule(2, 2, False)))(side([[2.0, 4.0], [np.nan, 4.0]]))
    assert taps.cells[0].tolist() == [[2, 2, 3, 3], [3, 3, 4, 4]]
    np.testing.assert_allclose(taps.weights[0], [[0.375, 0.125, 0.125, 0.375]] * 2)
    assert not taps.weights[1].any()
