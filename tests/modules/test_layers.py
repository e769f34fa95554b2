"""Layers against plain NumPy."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maskrcnn_jax import execution, sharding
from maskrcnn_jax.modules import layers
from maskrcnn_jax.modules.layers import Conv, Deconv2x2, add_bias, interleave, normed, relu
from maskrcnn_jax.modules.norms import BatchNorm, FrozenBatchNorm, GroupNorm

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_deconvolution_equals_pytorch_written_as_loops():
    """PyTorch stores ``[in, out, row, column]``; ours moves the axes and flips nothing."""
    x, weight, bias = normal(2, 3, 5, 4), normal(4, 6, 2, 2), normal(6)
    expected = np.zeros((2, 6, 10, 6))
    for y in range(3):
        for column in range(5):
            for i in range(2):
                for j in range(2):
                    expected[:, 2 * y + i, 2 * column + j] = (
                        x[:, y, column] @ weight[:, :, i, j] + bias
                    )
    variables = {"params": {"kernel": weight.transpose(2, 3, 0, 1), "bias": bias}}

    def upsample(variables, x):
        maps = Deconv2x2(6).apply(variables, x)
        return jnp.stack([interleave([y[..., i] for y in maps]) for i in range(6)], axis=-1)

    found = jax.jit(upsample)(variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_sees_nothing_beyond_the_extent(stride):
    x, kernel, bias = jnp.asarray(normal(2, 8, 10, 3)), normal(3, 3, 3, 4), normal(4)
    module, variables = Conv(4, 3, stride), {"params": {"kernel": kernel, "bias": bias}}
    extent = jnp.array([[5, 6], [8, 10]])
    convolve = jax.jit(partial(module.apply, jax.tree.map(jnp.asarray, variables)))
    y = convolve(relu(x, extent))
    cropped = convolve(relu(x[:1, :5, :6]))
    np.testing.assert_allclose(
        y[:1, : -(-5 // stride), : 6 // stride], cropped, rtol=1e-4, atol=1e-5
    )
    whole = convolve(relu(x))
    np.testing.assert_allclose(y[1], whole[1], rtol=1e-4, atol=1e-5)
    assert abs(y[0] - whole[0]).max() > 0.1


@pytest.mark.parametrize("norm", [FrozenBatchNorm(1e-2), GroupNorm(1e-2), BatchNorm(1e-2)])
def test_a_convolution_with_a_norm_is_one_after_the_other(norm):
    """The frozen batch norm is folded into the kernel; gradients must be those of both layers."""
    x, cotangent, extent = normal(2, 6, 5, 8), normal(2, 6, 5, 64), jnp.array([[6, 5], [3, 4]])
    conv = Conv(64, 3, use_bias=False)
    kernel = {"params": {"kernel": normal(3, 3, 8, 64)}}
    shapes = jax.eval_shape(norm.init, jax.random.key(0), jnp.zeros((2, 6, 5, 64)))
    variables = jax.tree.map(lambda leaf: jnp.asarray(abs(normal(*leaf.shape))), shapes)

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            conv = Conv(64, 3, use_bias=False, name="conv")
            return normed(conv, type(norm)(norm.eps, name="norm"), x, extent)

    def folded(x, kernel):
        scopes = {name: {"norm": tree} for name, tree in variables.items()}
        scopes["params"] = {**scopes.get("params", {}), "conv": kernel["params"]}
        return Both().apply(scopes, x)

    def apart(x, kernel):
        return norm.apply(variables, conv.apply(kernel, x), extent)

    def results(function):
        y, vjp = jax.vjp(function, x, kernel)
        return y, vjp(jnp.asarray(cotangent))

    found, expected = jax.jit(results, static_argnums=0)(folded), results(apart)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected
    )


def test_the_gradient_of_a_bias_is_summed_in_float32():
    y, bias = jnp.zeros((1, 40, 50, 2), jnp.bfloat16), jnp.zeros(2)

    def loss(bias):
        return add_bias(y, bias)[0].astype(jnp.float32).mean()

    program = jax.make_jaxpr(jax.grad(loss))(bias)
    sums = [eqn for eqn in program.eqns if eqn.primitive.name == "reduce_sum"]
    assert [eqn.outvars[0].aval.str_short() for eqn in sums][-1] == "float32[2]"
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(bias), [0.5, 0.5], rtol=1e-2)


@pytest.mark.parametrize("check_vma", [False, True])
def test_gradients_of_a_layer_are_sums_over_the_devices_of_a_shard_map(check_vma):
    """A `shard_map` with ``check_vma`` adds the gradients of replicated parameters itself."""
    module, x = Conv(4, 3, use_bias=True), jnp.asarray(normal(8, 5, 6, 2))
    variables = module.init(jax.random.key(0), x[:1])

    def loss(variables, x):
        return (module.apply(variables, x) ** 2).sum()

    def gradient(variables, x):
        found = jax.grad(loss)(variables, x)
        return found if check_vma else jax.lax.psum(found, "data")

    mesh, whole, split = sharding.make_mesh(8, 8), PartitionSpec(), PartitionSpec("data")
    specs = {"in_specs": (whole, split), "out_specs": whole, "check_vma": check_vma}
    found = jax.jit(jax.shard_map(gradient, mesh=mesh, **specs))(variables, x)
    expected = jax.grad(loss)(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)


@pytest.mark.parametrize(
    "module", [Conv(64), Deconv2x2(64), GroupNorm(), BatchNorm(), FrozenBatchNorm()]
)
def test_dtype_is_that_of_the_activations_while_parameters_stay_float32(module):
    module = module.clone(dtype="bfloat16")
    x = jnp.zeros((1, 4, 4, 32), jnp.bfloat16)
    results, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert {y.dtype for y in jax.tree.leaves(results)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "init, deviation, bound",
    [
        (layers.kaiming_normal, (2 / (9 * 64)) ** 0.5, None),  # Fan-out: 9 * 64.
        (layers.kaiming_uniform, (1 / (9 * 32)) ** 0.5, (3 / (9 * 32)) ** 0.5),  # Fan-in: 9 * 32.
        (layers.torch_linear, (1 / 3 / (9 * 32)) ** 0.5, (9 * 32) ** -0.5),
        (layers.torch_bias(100), 0.1 / 3**0.5, 0.1),
    ],
)
def test_initial_values_spread_as_in_pytorch(init, deviation, bound):
    values = np.asarray(jax.jit(init, static_argnums=1)(jax.random.key(0), (3, 3, 32, 64)))
    np.testing.assert_allclose(values.std(), deviation, rtol=0.05)
    assert abs(values.mean()) < deviation / 20
    if bound is None:
        assert abs(values).max() > 2.5 * deviation  # Not truncated.
    else:
        assert 0.95 * bound < abs(values).max() <= bound


def test_relu_and_its_gradients_are_those_of_flax():
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.inf])
    tangent = jnp.arange(1.0, 7.0)
    np.testing.assert_array_equal(relu(x), nn.relu(x))
    for function in (jax.jvp, lambda f, x, t: jax.vjp(f, *x)[1](*t)):
        ours, theirs = (function(f, (x,), (tangent,)) for f in (relu, nn.relu))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_relu_is_zero_beyond_the_extent_and_so_is_its_gradient():
    x, extent = jnp.asarray(1 + abs(normal(2, 4, 5, 3))), jnp.array([[2, 3], [4, 5]])
    inside = np.zeros((2, 4, 5, 1), bool)
    inside[0, :2, :3], inside[1] = True, True
    y, vjp = jax.vjp(lambda x: relu(x, extent), x)
    np.testing.assert_array_equal(y, np.where(inside, x, 0))
    np.testing.assert_array_equal(vjp(x)[0], np.where(inside, x, 0))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_with_groups_gathers_no_images(stride):
    """Each device convolves its own; the gradient of the kernel is summed over the devices."""
    mesh = sharding.make_mesh(2, 2)
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    x, kernel = normal(2, 8, 6, 8), normal(3, 3, 2, 8)

    def gradients(per_device, x, kernel):
        module = Conv(8, 3, stride, groups=4, use_bias=False, per_device=per_device)

        def total(x, kernel):
            return jnp.sin(module.apply({"params": {"kernel": kernel}}, x)).sum()

        return jax.grad(total, argnums=(0, 1))(x, kernel)

    run = execution.choose(mesh=mesh)
    program = jax.jit(partial(gradients, run.per_device), out_shardings=(split, whole))
    compiled = program.lower(jax.device_put(x, split), jax.device_put(kernel, whole)).compile()
    assert "all-gather" not in compiled.as_text() and "all-reduce" in compiled.as_text()
    expected = jax.jit(partial(gradients, lambda function: function))(x, kernel)
    for ours, theirs in zip(program(x, kernel), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
