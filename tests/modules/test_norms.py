"""Norms against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.modules.norms import NORMS, BatchNorm, FrozenBatchNorm, GroupNorm

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def group_norm(x, scale, bias, num_groups, eps):
    """One image, one group at a time."""
    y = np.zeros_like(x, np.float64)
    size = x.shape[-1] // num_groups
    for image in range(len(x)):
        for group in range(0, x.shape[-1], size):
            part = x[image, :, :, group : group + size].astype(np.float64)
            y[image, :, :, group : group + size] = (part - part.mean()) / np.sqrt(part.var() + eps)
    return y * scale + bias


def test_group_norm_equals_numpy():
    x, scale, bias = 3 * normal(2, 5, 4, 64) + 7, normal(64), normal(64)
    y = jax.jit(GroupNorm(1e-3).apply)({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(y, group_norm(x, scale, bias, 32, 1e-3), rtol=1e-3, atol=1e-4)


def test_group_norm_keeps_the_digits_of_large_maps():
    """A group has 121,600 numbers; PyTorch's result is as near to that in float64."""
    x, scale, bias = 2 * normal(1, 50, 76, 1024) + 1, np.ones(1024), np.zeros(1024)
    y = jax.jit(GroupNorm().apply)({"params": {"scale": scale, "bias": bias}}, x)
    difference = y - group_norm(x, scale, bias, 32, 1e-5)
    assert np.sqrt(np.square(difference).mean()) < 2e-7


def test_group_norm_measures_inside_the_extent_only():
    x, scale, bias = normal(2, 6, 7, 32), normal(32), normal(32)
    x[0, 4:], x[0, :, 3:], x[1, 6:] = 1e4, 1e4, 1e4
    extent = np.array([[4, 3], [6, 7]])
    y = jax.jit(GroupNorm().apply)({"params": {"scale": scale, "bias": bias}}, x, extent)
    for image, (height, width) in enumerate(extent):
        expected = group_norm(x[image : image + 1, :height, :width], scale, bias, 32, 1e-5)
        np.testing.assert_allclose(
            y[image : image + 1, :height, :width], expected, rtol=1e-3, atol=1e-4
        )
    assert np.isfinite(y).all()


def test_frozen_batch_norm_has_constants_and_no_parameters():
    x = normal(2, 3, 4, 5)
    constants = {"scale": normal(5), "bias": normal(5), "mean": normal(5), "var": abs(normal(5))}
    variables = jax.eval_shape(FrozenBatchNorm().init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {"constants": dict.fromkeys(constants, (5,))}
    y = jax.jit(FrozenBatchNorm(eps=1e-2).apply)({"constants": constants}, x)
    expected = (x - constants["mean"]) / np.sqrt(constants["var"] + 1e-2) * constants[
        "scale"
    ] + constants["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_fixed_batch_norm_trains_scale_and_bias_and_keeps_the_statistics():
    x, weight = normal(2, 3, 4, 5), normal(2, 3, 4, 5)
    params = {"scale": normal(5), "bias": normal(5)}
    constants = {"mean": normal(5), "var": abs(normal(5))}
    norm = NORMS["fixed_batch"](eps=1e-2)
    variables = jax.eval_shape(norm.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {
        "constants": dict.fromkeys(constants, (5,)),
        "params": dict.fromkeys(params, (5,)),
    }

    @jax.jit
    def loss(params, x):
        y, updated = norm.apply(
            {"params": params, "constants": constants}, x, mutable=["batch_stats"]
        )
        return (y * weight).sum(), (y, updated)

    (_, (y, updated)), gradient = jax.value_and_grad(loss, has_aux=True)(params, x)
    standard = (x - constants["mean"]) / np.sqrt(constants["var"] + 1e-2)
    expected = standard * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    axes = (0, 1, 2)
    np.testing.assert_allclose(gradient["scale"], (standard * weight).sum(axes), rtol=1e-4)
    np.testing.assert_allclose(gradient["bias"], weight.sum(axes), rtol=1e-4)
    assert updated == {}


def batch_norm_variables(c):
    params = {"scale": normal(c), "bias": normal(c)}
    return {"params": params, "batch_stats": {"mean": normal(c), "var": abs(normal(c))}}


def train(module, variables, *args):
    return jax.jit(lambda *args: module.apply(*args, mutable=["batch_stats"]))(variables, *args)


def test_batch_norm_by_hand():
    """Four numbers in one channel: mean 4, variance 5, unbiased variance 20 / 3."""
    x = np.array([1.0, 3.0, 5.0, 7.0], np.float32).reshape(2, 1, 2, 1)
    variables = {"params": {"scale": np.full(1, 2.0), "bias": np.full(1, 10.0)}}
    variables["batch_stats"] = {"mean": np.full(1, 1.0), "var": np.full(1, 1.0)}
    y, updated = train(BatchNorm(eps=0.0), variables, x)
    np.testing.assert_allclose(y, 10 + 2 * (x - 4) / 5**0.5, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.9 * 1 + 0.1 * 4], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 * 1 + 0.1 * 20 / 3], rtol=1e-6)
    # Without mutable statistics, the running ones are used.
    y = jax.jit(BatchNorm(eps=0.0).apply)(variables, x)
    np.testing.assert_allclose(y, 10 + 2 * (x - 1), rtol=1e-6)


def test_batch_norm_takes_its_statistics_inside_the_extents():
    x, variables = normal(2, 6, 7, 5), batch_norm_variables(5)
    extents = np.array([[4, 3], [6, 7]])
    y, updated = train(BatchNorm(eps=1e-2), variables, x, extents)
    inside = np.concatenate([x[0, :4, :3].reshape(-1, 5), x[1].reshape(-1, 5)])
    mean, variance = inside.mean(0), inside.var(0)
    expected = (x - mean) / np.sqrt(variance + 1e-2) * variables["params"]["scale"] + variables[
        "params"
    ]["bias"]
    np.testing.assert_allclose(y[0, :4, :3], expected[0, :4, :3], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(y[1], expected[1], rtol=1e-3, atol=1e-5)
    old = variables["batch_stats"]
    np.testing.assert_allclose(
        updated["batch_stats"]["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["var"],
        0.9 * old["var"] + 0.1 * inside.var(0, ddof=1),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "x, extents", [(jnp.ones((3, 4, 4, 5)), jnp.zeros((3, 2), int)), (jnp.ones((0, 4, 4, 5)), None)]
)
def test_an_empty_batch_leaves_the_running_statistics_alone(x, extents):
    variables = batch_norm_variables(5)

    def loss(params):
        y, updated = BatchNorm().apply(
            variables | {"params": params}, x, extents, mutable=["batch_stats"]
        )
        return jnp.sum(y**2), updated

    (_, updated), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    for name, old in variables["batch_stats"].items():
        np.testing.assert_array_equal(updated["batch_stats"][name], old)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_gradient_of_batch_norm_flows_through_its_statistics():
    """Shifting or scaling all inputs changes no output, so the gradient is orthogonal to both."""
    x, weight, variables = normal(2, 3, 4, 5), normal(2, 3, 4, 5), batch_norm_variables(5)

    def loss(x):
        y, _ = BatchNorm(eps=0.0).apply(variables, x, mutable=["batch_stats"])
        return (y * weight).sum()

    gradient = jax.jit(jax.grad(loss))(x)
    np.testing.assert_allclose(gradient.sum((0, 1, 2)), np.zeros(5), atol=1e-4)
    np.testing.assert_allclose((gradient * x).sum((0, 1, 2)), np.zeros(5), atol=1e-4)
    assert abs(gradient).max() > 0.01
