"""Arrays that a CPU keeps, and gradients that it computes together, are the same as ever."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import compiler
from maskrcnn_jax.modules.materialise import materialise, relu, together


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("transformation", [jax.jit, compiler.jit(False), lambda f: f, jax.vmap])
def test_the_same_arrays(transformation):
    arrays = {"a": draw(3, 4), "b": jnp.arange(3)}
    jax.tree.map(np.testing.assert_array_equal, transformation(materialise)(arrays), arrays)


def test_sums_over_devices_stay_sums_beside_arrays_that_vary():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    spec = jax.sharding.PartitionSpec

    def add_up(x):
        return materialise((x, jax.lax.psum(x, "data")))

    mapped = jax.shard_map(add_up, mesh=mesh, in_specs=spec("data"), out_specs=(spec("data"), spec()), check_vma=True)
    x, total = jax.jit(mapped)(jnp.arange(4.0))
    np.testing.assert_array_equal(x, jnp.arange(4.0))
    np.testing.assert_array_equal(total, jnp.array([2.0, 4.0]))


def test_relu_and_its_gradients_are_those_of_flax():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.inf])
    tangent = jnp.arange(1.0, 7.0)
    np.testing.assert_array_equal(relu(x), nn.relu(x))
    for function in (jax.jvp, lambda f, x, t: jax.vjp(f, *x)[1](*t)):
        ours, theirs = (function(f, (x,), (tangent,)) for f in (relu, nn.relu))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def product(x, kernel):
    return jnp.sin(jnp.matmul(*together((x, kernel))))


@pytest.mark.parametrize("by", [0, 1, (0, 1)])
def test_gradients_are_those_without(by):
    x, kernel = draw(5, 3), draw(3, 4)
    ours = compiler.jit(False)(jax.grad(lambda *args: product(*args).sum(), by))(x, kernel)
    theirs = jax.grad(lambda x, kernel: jnp.sin(x @ kernel).sum(), by)(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


@pytest.mark.parametrize("frozen, products", [(False, 5), (True, 3)])
def test_what_has_no_gradient_is_not_asked_for_one(frozen, products):
    def loss(kernels, x):
        x = x @ kernels[0]
        return product(jax.lax.stop_gradient(x) if frozen else x, kernels[1]).sum()

    program = compiler.jit(False)(jax.grad(loss)).lower([jnp.ones((3, 4)), jnp.ones((4, 2))], jnp.ones((5, 3)))
    # Two forward, and one for the gradient of the second kernel; without stop_gradient those of x and the first kernel.
    assert program.compile().as_text().count(" dot(") == products
