"""The convolution and its gradients against XLA's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import convolution, winograd


def lax_conv(x, kernel, stride):
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def gradients(function, x, kernel, stride, weights):
    """The result, and the gradients of its weighted sum by input and kernel, in one program."""

    @jax.jit
    def run(x, kernel):
        result, vjp = jax.vjp(lambda x, kernel: function(x, kernel, stride), x, kernel)
        return result, *vjp(weights.astype(result.dtype))

    return [np.asarray(value, np.float32) for value in run(x, kernel)]


def random_case(shape, features, side, stride, dtype="float32"):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape).astype(np.float32), dtype)
    kernel = jnp.asarray(
        rng.normal(size=(side, side, shape[-1], features)).astype(np.float32), dtype
    )
    result_shape = (shape[0], -(-shape[1] // stride), -(-shape[2] // stride), features)
    return x, kernel, stride, jnp.asarray(rng.normal(size=result_shape).astype(np.float32), dtype)


@pytest.mark.parametrize(
    "shape, features, side, stride",
    [
        ((1, 7, 9, 3), 5, 3, 1),
        ((2, 9, 8, 3), 4, 3, 2),
        ((1, 15, 12, 3), 4, 7, 2),
        ((2, 9, 8, 3), 4, 1, 2),
    ],
)
def test_value_and_gradients_equal_those_of_xla(shape, features, side, stride):
    case = random_case(shape, features, side, stride)
    for ours, reference in zip(
        gradients(convolution.conv, *case), gradients(lax_conv, *case), strict=True
    ):
        assert ours.shape == reference.shape
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4 * abs(reference).max())


@pytest.mark.parametrize("stride", [1, 2])
def test_each_group_is_a_convolution_of_its_own(stride):
    x, kernel, _, weights = random_case((2, 7, 6, 12), 8, 3, stride)
    kernel = kernel[:, :, :3]  # Four groups of three inputs and two outputs.

    def by_group(x, kernel, stride):
        pairs = zip(jnp.split(x, 4, axis=3), jnp.split(kernel, 4, axis=3), strict=True)
        return jnp.concatenate([lax_conv(*pair, stride) for pair in pairs], axis=3)

    grouped = partial(convolution.conv, groups=4)
    case = x, kernel, stride, weights
    for ours, reference in zip(gradients(grouped, *case), gradients(by_group, *case), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4 * abs(reference).max())


@pytest.mark.parametrize("groups", [1, 2])
def test_a_dilated_kernel_has_holes(groups):
    x, kernel, stride, weights = random_case((1, 40, 42, 64), 64, 3, 1)  # Else by Winograd.
    kernel = kernel[:, :, : 64 // groups]

    def holes(x, kernel, stride):
        wide = jnp.zeros((5, 5, *kernel.shape[2:])).at[::2, ::2].set(kernel)
        parts = zip(*(jnp.split(array, groups, axis=3) for array in (x, wide)), strict=True)
        return jnp.concatenate([lax_conv(*pair, stride) for pair in parts], axis=3)

    dilated = partial(convolution.conv, groups=groups, dilation=2)
    case = x, kernel, stride, weights
    for ours, reference in zip(gradients(dilated, *case), gradients(holes, *case), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4 * abs(reference).max())


@pytest.fixture
def always(monkeypatch):
    """Winograd's algorithm for maps of any size."""
    monkeypatch.setattr(winograd, "MIN_TILES", 1)
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)


@pytest.mark.parametrize("transform", ["none", "vmap", "checkpoint"])
def test_gradients_through_winograd_equal_those_of_xla(always, transform):
    x, kernel, stride, weights = random_case((2, 7, 6, 3), 4, 3, 1)
    forms = [lambda x, kernel, f=f: f(x, kernel, stride) for f in (convolution.conv, lax_conv)]
    if transform == "vmap":
        x, weights = x[:, None], weights[:, None]
        forms = [jax.vmap(form, in_axes=(0, None)) for form in forms]
    elif transform == "checkpoint":
        forms = [jax.checkpoint(form) for form in forms]
    found = [
        gradients(lambda x, kernel, _, form=form: form(x, kernel), x, kernel, stride, weights)
        for form in forms
    ]
    for ours, reference in zip(*found, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-5 * abs(reference).max())


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_two_rows_become_one_of_twice_the_channels(side):
    x, kernel, stride, weights = random_case((2, 12, 17, 3), 4, side, 2)
    direct = partial(convolution._direct, stride=stride)
    found = [
        gradients(lambda x, kernel, _, form=form: form(x, kernel), x, kernel, stride, weights)
        for form in (convolution._by_pairs_of_rows, direct)
    ]
    for ours, reference in zip(*found, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-5 * abs(reference).max())


@pytest.mark.parametrize(
    "platform, shape, rows_sharded, channels",
    [
        ("tpu", (1, 8, 8, 3), False, 6),
        ("cuda", (1, 8, 8, 3), False, 3),
        ("tpu", (1, 7, 8, 3), False, 3),
        ("tpu", (1, 8, 8, 3), True, 3),
        ("tpu", (1, 8, 8, 5), False, 5),
    ],
)
def test_pictures_are_convolved_by_pairs_of_rows_on_a_tpu(platform, shape, rows_sharded, channels):
    x, kernel, *_ = random_case(shape, 4, 7, 2)
    conv = partial(convolution.conv, stride=2, rows_sharded=rows_sharded)
    program = jax.export.export(jax.jit(conv), platforms=[platform])(x, kernel).mlir_module()
    (line,) = (line for line in program.splitlines() if "stablehlo.convolution" in line)
    assert f"x{channels}xf32>, tensor<" in line


@pytest.mark.parametrize("platform, expected", [("cpu", 0), ("tpu", 1), ("cuda", 1)])
def test_the_form_suits_the_platform(always, platform, expected):
    x, kernel, *_ = random_case((1, 6, 8, 3), 4, 3, 1)
    program = jax.export.export(
        jax.jit(lambda x, kernel: convolution.conv(x, kernel, 1)), platforms=[platform]
    )
    assert program(x, kernel).mlir_module().count("stablehlo.convolution") == expected


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"stride": 2},
        {"rows_sharded": True},
        {"shape": (1, 20, 20, 64)},
        {"features": 32},
    ],
)
def test_other_convolutions_are_direct(change):
    case = {"shape": (1, 40, 40, 64), "features": 64, "stride": 1, "dtype": "float32"} | change
    x, kernel, stride, _ = random_case(
        case["shape"], case["features"], 3, case["stride"], case["dtype"]
    )

    def count(rows_sharded):
        function = jax.jit(
            lambda x, kernel: convolution.conv(x, kernel, stride, rows_sharded=rows_sharded)
        )
        return function.lower(x, kernel).as_text().count("stablehlo.convolution")

    assert count(change.get("rows_sharded", False)) == 1


def test_large_convolutions_go_by_winograd():
    x, kernel, stride, _ = random_case((1, 40, 40, 64), 64, 3, 1)
    assert winograd.is_faster(x.shape, kernel.shape)
    text = jax.jit(lambda x, kernel: convolution.conv(x, kernel, stride)).lower(x, kernel).as_text()
    assert "stablehlo.convolution" not in text


def grouped_conv(x, kernel, groups):
    """Each group of output channels convolves its own group of input channels."""
    inputs, outputs = jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1)
    return jnp.concatenate([lax_conv(a, b, 1) for a, b in zip(inputs, outputs, strict=True)], -1)


@pytest.mark.parametrize("side", [1, 3])
def test_groups_convolve_their_own_channels(side):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 6, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(side, side, 2, 12)), jnp.float32)
    found = jax.jit(lambda x, kernel: convolution.conv(x, kernel, 1, groups=4))(x, kernel)
    np.testing.assert_allclose(found, grouped_conv(x, kernel, 4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(), (7,), (2, 3, 5), (0, 4)])
def test_products_and_gradients_are_those_of_every_row(axes):
    rng = np.random.default_rng(0)
    x, matrix = (
        rng.normal(size=(*axes, 4)).astype(np.float32),
        rng.normal(size=(4, 3)).astype(np.float32),
    )
    upstream = rng.normal(size=(*axes, 3)).astype(np.float32)
    product, pull = jax.vjp(convolution.matmul, jnp.asarray(x), jnp.asarray(matrix))
    by_x, by_matrix = pull(jnp.asarray(upstream))
    np.testing.assert_allclose(product, np.einsum("...i,io->...o", x, matrix), atol=1e-5)
    np.testing.assert_allclose(by_x, np.einsum("...o,io->...i", upstream, matrix), atol=1e-5)
    expected = sum(np.outer(x[at], upstream[at]) for at in np.ndindex(axes))
    np.testing.assert_allclose(by_matrix, np.broadcast_to(expected, (4, 3)), atol=1e-5)
