"""The number and the places of samples that follow the size of an RoI."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.roi_pooling import adaptive
from tests.conftest import QUICK_COMPILE

jit = partial(jax.jit, compiler_options=QUICK_COMPILE)


@jit
def samples_of(start, stop):
    size = jnp.full(len(start), 8)
    settings = {"resolution": 7, "aligned": False}
    return [
        adaptive.axis_samples(start, stop, size, **settings | {"aligned": aligned})
        for aligned in (False, True)
    ]


def test_a_bin_has_as_many_samples_as_cells():
    """7 bins: of a cell, of a little more, of less; inside out, and not a number."""
    stop = np.array([7, 7.001, 3, -4, np.nan, 49], np.float32)
    plain, aligned = samples_of(jnp.zeros(6), jnp.asarray(stop))
    assert plain.per_bin.tolist() == [1, 2, 1, 1, 0, 7]
    assert aligned.per_bin.tolist() == [1, 2, 1, 0, 0, 7]
    # Without "aligned" an RoI has at least one cell; with it, RoIs lie half a cell further up.
    np.testing.assert_allclose(plain.bin_length[3], 1 / 7)
    assert plain.start.tolist() == [0] * 6 and aligned.start.tolist() == [-0.5] * 6


def test_a_division_is_exact_for_constants_too():
    """With the rounded inverse of 7, 49 / 7 would be a little more than 7."""
    whole = jnp.arange(0, 49 * 7, 7, dtype=jnp.float32)
    quotient = jax.jit(lambda x: adaptive.divide(x, jnp.float32(7)))(whole)
    np.testing.assert_array_equal(quotient, np.arange(49))
    assert np.isnan(adaptive.divide(jnp.array([jnp.nan]), jnp.ones(1)))


def test_the_weights_of_a_bin_add_up_to_its_share_on_the_map():
    """A map of 8 cells; samples over a cell beyond it are zeros."""

    @jit
    def run(starts, stops):
        settings = {"resolution": 7, "aligned": False}
        samples = adaptive.axis_samples(starts, stops, jnp.full(3, 8), **settings)
        return samples, adaptive.axis_matrix(samples, size=8, resolution=7)

    samples, matrices = run(jnp.zeros(3), jnp.array([3.0, 7.0, 20.0]))
    for matrix, count, length in zip(matrices, samples.per_bin, samples.bin_length, strict=True):
        for i, weights in enumerate(np.asarray(matrix)):
            positions = float(length) * (i + (np.arange(float(count)) + 0.5) / float(count))
            assert weights.sum() == pytest.approx((positions <= 8).mean(), abs=1e-5)
            centre = np.clip(positions[positions <= 8], 0, 7).sum() / float(count)
            assert weights @ np.arange(8) == pytest.approx(centre, abs=1e-4)


def test_pooling_and_its_transpose_are_products_of_the_weights_along_both_axes():
    """RoIs of half a cell, of four cells, and across the border of a map of 8x8 cells."""
    rng = np.random.default_rng(0)
    cells = jnp.asarray(rng.normal(size=(64, 2)), jnp.float32)
    gradient = jnp.asarray(rng.normal(size=(3, 7, 7, 2)), jnp.float32)
    starts, stops = jnp.array([2.0, 1.5, 5.0]), jnp.array([2.5, 5.5, 30.0])

    @jit
    def run(cells, gradient, starts, stops):
        sizes, settings = jnp.full(3, 8), {"resolution": 7, "aligned": False}
        rows = adaptive.axis_samples(starts, stops, sizes, **settings)
        columns = adaptive.axis_samples(stops - 2, stops, sizes, **settings)
        rois = adaptive.SampledRoIs(jnp.zeros(3, int), sizes, rows, columns)
        matrices = [adaptive.axis_matrix(x, 8, 7) for x in (rows, columns)]
        pooled = adaptive.pool(cells, rois, 7)
        return pooled, adaptive.add_gradient(jnp.ones_like(cells), gradient, rois), matrices

    pooled, total, (rows, columns) = run(cells, gradient, starts, stops)
    expected = np.einsum("rph,hwc,rqw->rpqc", rows, np.reshape(cells, (8, 8, 2)), columns)
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
    expected = np.einsum("rph,rpqc,rqw->hwc", rows, gradient, columns) + 1
    np.testing.assert_allclose(total, expected.reshape(64, 2), atol=1e-5)
