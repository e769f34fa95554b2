"""Barriers change no value, and no gradient that nobody needs is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.xla.barriers import backward_barrier, barrier

SMALL = Execution(small_on_cpu=True)


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("transformation", [jax.jit, SMALL.jit, lambda f: f, jax.vmap])
def test_the_same_arrays(transformation):
    arrays = {"a": draw(3, 4), "b": jnp.arange(3)}
    jax.tree.map(np.testing.assert_array_equal, transformation(barrier)(arrays), arrays)


def test_sums_over_devices_stay_sums_beside_arrays_that_vary():
    mesh = jax.make_mesh(
        (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    spec = jax.sharding.PartitionSpec

    def add_up(x):
        return barrier((x, jax.lax.psum(x, "data")))

    mapped = jax.shard_map(
        add_up, mesh=mesh, in_specs=spec("data"), out_specs=(spec("data"), spec()), check_vma=True
    )
    x, total = jax.jit(mapped)(jnp.arange(4.0))
    np.testing.assert_array_equal(x, jnp.arange(4.0))
    np.testing.assert_array_equal(total, jnp.array([2.0, 4.0]))


def product(x, kernel):
    return jnp.sin(jnp.matmul(*backward_barrier((x, kernel))))


@pytest.mark.parametrize("by", [0, 1, (0, 1)])
def test_gradients_are_those_without(by):
    x, kernel = draw(5, 3), draw(3, 4)
    ours = SMALL.jit(jax.grad(lambda *args: product(*args).sum(), by))(x, kernel)
    theirs = jax.grad(lambda x, kernel: jnp.sin(x @ kernel).sum(), by)(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


@pytest.mark.parametrize("frozen, products", [(False, 5), (True, 3)])
def test_what_has_no_gradient_is_not_asked_for_one(frozen, products):
    def loss(kernels, x):
        x = x @ kernels[0]
        return product(jax.lax.stop_gradient(x) if frozen else x, kernels[1]).sum()

    program = SMALL.jit(jax.grad(loss)).lower(
        [jnp.ones((3, 4)), jnp.ones((4, 2))], jnp.ones((5, 3))
    )
    # Two products forward, and one for the gradient of the second kernel. Without stop_gradient,
    # those for x and the first kernel are added.
    assert program.compile().as_text().count(" dot(") == products
