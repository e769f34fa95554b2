"""Backbone, pyramid and heads: shapes at full size without computing, and values where they can be told."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.modules.fpn import FPN
from maskrcnn_jax.modules.heads import BoxHead, MaskHead, RPNHead
from maskrcnn_jax.modules.layers import Conv
from maskrcnn_jax.modules.resnet import ResNet
from maskrcnn_jax.ops.windows import windows_at
from tests.conftest import QUICK_COMPILE


def resnet(depth, norm="group", stride_in_1x1=False, frozen_stages=0, dtype="float32"):
    return ResNet(depth, 64, norm, 1e-5, stride_in_1x1, frozen_stages, dtype)


def shaped(module, *args):
    """Shapes of the result and number of parameters and constants; nothing is computed."""
    result, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *args)
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in variables.items()}
    return result, sizes


def filled(module, *args, scale=1.0):
    """Random variables without running the initialisers, which would have to be compiled."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    return jax.tree.map(lambda x: (scale * rng.normal(size=x.shape)).astype("f"), shapes)


# Published sizes of the classifiers, less their last layer; group norm has as many parameters as trainable batch norm.
@pytest.mark.parametrize(
    "depth, num_parameters, expansion",
    [(18, 11_176_512, 1), (34, 21_284_672, 1), (50, 23_508_032, 4), (101, 42_500_160, 4), (152, 58_143_808, 4)],
)
def test_sizes_of_resnets(depth, num_parameters, expansion):
    image, extent = jnp.zeros((2, 800, 1088, 3)), jnp.zeros((2, 2), jnp.int32)
    features, sizes = shaped(resnet(depth), image, extent)
    assert sizes == {"params": num_parameters}
    assert {level: x.shape for level, x in features.items()} == {
        2: (2, 200, 272, 64 * expansion),
        3: (2, 100, 136, 128 * expansion),
        4: (2, 50, 68, 256 * expansion),
        5: (2, 25, 34, 512 * expansion),
    }


def test_stride_moves_to_the_first_convolution():
    """Same parameters and shapes; the 3x3 convolution of a stage's first block works at half the size."""
    image, extent = jnp.zeros((1, 64, 96, 3)), jnp.zeros((1, 2), jnp.int32)
    in_3x3, in_1x1 = (shaped(resnet(50, stride_in_1x1=flag), image, extent) for flag in (False, True))
    assert in_3x3 == in_1x1

    def after_first(flag):
        module = resnet(50, "frozen_batch", flag)
        apply = lambda variables: module.apply(variables, image, extent, capture_intermediates=True)[1]  # noqa: E731
        found = jax.eval_shape(apply, jax.eval_shape(module.init, jax.random.key(0), image, extent))["intermediates"]
        return {stage: found[f"layer{stage}_0"]["conv1"]["__call__"][0].shape[1:3] for stage in (1, 2, 3, 4)}

    assert after_first(False) == {1: (16, 24), 2: (16, 24), 3: (8, 12), 4: (4, 6)}
    assert after_first(True) == {1: (16, 24), 2: (8, 12), 3: (4, 6), 4: (2, 3)}


def test_frozen_batch_norm_leaves_convolutions_only_as_parameters():
    _, sizes = shaped(resnet(50, "frozen_batch"), jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 2), jnp.int32))
    assert sizes == {"params": 23_508_032 - 53_120, "constants": 2 * 53_120}


def pyramid_shapes(height, width, channels):
    return {level: jnp.zeros((1, height // 2**level, width // 2**level, channels)) for level in (2, 3, 4, 5)}


@pytest.mark.parametrize("norm, extra", [("none", 8 * 32), ("group", 2 * 8 * 32)])
def test_fpn_has_a_bias_or_a_norm_after_every_convolution(norm, extra):
    features = pyramid_shapes(800, 1088, 16)
    extents = {level: jnp.zeros((1, 2), jnp.int32) for level in features}
    pyramid, sizes = shaped(FPN(32, norm, 1e-5, "float32"), features, extents)
    assert {level: x.shape[1:] for level, x in pyramid.items()} == {
        2: (200, 272, 32),
        3: (100, 136, 32),
        4: (50, 68, 32),
        5: (25, 34, 32),
        6: (13, 17, 32),
    }
    assert sizes == {"params": 4 * 16 * 32 + 4 * 9 * 32 * 32 + extra}


def test_fpn_adds_each_cell_to_the_four_below_it():
    """With convolutions that pass everything through, P is C plus the enlarged P above; P6 is every second cell."""
    rng = np.random.default_rng(0)
    features = {level: rng.normal(size=(1, 96 // 2**level, 160 // 2**level, 4)).astype("f") for level in (2, 3, 4, 5)}
    extents = {level: np.array([x.shape[1:3]]) for level, x in features.items()}
    identity, center = np.eye(4, dtype="f").reshape(1, 1, 4, 4), np.zeros((3, 3, 4, 4), "f")
    center[1, 1] = np.eye(4)
    params = {f"lateral{level}": {"kernel": identity, "bias": np.zeros(4, "f")} for level in features}
    params |= {f"output{level}": {"kernel": center, "bias": np.zeros(4, "f")} for level in features}
    pyramid = jax.jit(FPN(4, "none", 1e-5, "float32").apply)({"params": params}, features, extents)
    expected = {5: features[5]}
    for level in (4, 3, 2):
        expected[level] = features[level] + expected[level + 1].repeat(2, axis=1).repeat(2, axis=2)
    expected[6] = expected[5][:, ::2, ::2]
    assert list(pyramid) == [2, 3, 4, 5, 6]
    assert pyramid[6].shape == (1, 2, 3, 4)
    for level, x in pyramid.items():
        np.testing.assert_allclose(x, expected[level], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make, features",
    [
        (partial(ResNet, 50, 32, "group", 1e-5, False, 0, "float32"), (1, 32, 64, 3)),
        (partial(FPN, 4, "none", 1e-5, "float32"), {3: (1, 8, 12, 4), 2: (1, 16, 24, 4)}),
    ],
    ids=["backbone", "pyramid"],
)
def test_what_is_made_again_is_the_same(make, features):
    rng = np.random.default_rng(9)
    is_shape = {"is_leaf": lambda x: isinstance(x, tuple)}
    features = jax.tree.map(lambda shape: rng.normal(size=shape).astype("f"), features, **is_shape)
    extents = jax.tree.map(lambda x: jnp.array([x.shape[1:3]]), features)
    variables = filled(make(), features, extents, scale=0.3)
    assert jax.tree.structure(variables) == jax.tree.structure(filled(make(remake=True), features, extents))

    def results(module):
        def total(variables, features):
            maps = module.apply(variables, features, extents)
            return sum(jnp.sin(x).sum() for x in maps.values()), maps

        program = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True), compiler_options=QUICK_COMPILE)
        (_, maps), gradients = program(variables, features)
        return jax.tree.leaves((maps, gradients))

    for again, kept in zip(results(make(remake=True)), results(make()), strict=True):
        np.testing.assert_allclose(again, kept, rtol=1e-4, atol=1e-4 * abs(kept).max())


def test_rpn_head_orders_anchors_by_row_column_ratio():
    rng = np.random.default_rng(0)
    pyramid = {2: rng.normal(size=(2, 4, 6, 8)).astype("f"), 3: rng.normal(size=(2, 2, 3, 8)).astype("f")}
    extents = {2: np.array([[4, 6]] * 2), 3: np.array([[2, 3]] * 2)}
    module = RPNHead(3, 1, "float32")
    variables = filled(module, pyramid, extents)
    params = variables["params"]
    logits, deltas = jax.jit(module.apply)(variables, pyramid, extents)
    for level, x in pyramid.items():
        height, width = x.shape[1:3]
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        for row, column in [(0, 0), (1, 2), (height - 1, width - 1)]:
            patch = padded[1, row : row + 3, column : column + 3]
            hidden = np.einsum("yxi,yxio->o", patch, params["conv0"]["kernel"]) + params["conv0"]["bias"]
            hidden = np.maximum(hidden, 0)
            scores = hidden @ params["cls_logits"]["kernel"][0, 0] + params["cls_logits"]["bias"]
            moves = hidden @ params["bbox_pred"]["kernel"][0, 0] + params["bbox_pred"]["bias"]
            start = 3 * (row * width + column)
            np.testing.assert_allclose(logits[level][1, start : start + 3], scores, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(deltas[level][1, start : start + 3], moves.reshape(3, 4), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_convs", [0, 1, 2])
def test_rpn_head_scores_windows_as_it_scores_maps(num_convs):
    """In the corner of a map, in its middle and at the end of what the canvas covers; the window of each image."""
    pyramid = {2: np.random.default_rng(7).normal(size=(2, 8, 9, 8)).astype("f")}
    extents = {2: jnp.array([[6, 7], [8, 9]])}
    module = RPNHead(3, num_convs, "float32")
    variables = filled(module, pyramid, extents, scale=0.2)
    indices = np.array([[0, 3 * (3 * 9 + 4) + 1, 3 * (5 * 9 + 6) + 2], [3 * (7 * 9 + 8), 3 * (3 * 9 + 4), 2]])

    @jax.jit
    def score(variables, pyramid):
        windows_one = partial(windows_at, num_ratios=3, radius=num_convs)
        _, windows, inside = jax.vmap(windows_one)(pyramid, extents, indices)
        return module.apply(variables, windows, inside, jnp.array(indices % 3), method="score_windows")

    logits, deltas = score(variables, pyramid)
    all_logits, all_deltas = jax.jit(module.apply)(variables, pyramid, extents)
    for i, anchors in enumerate(indices):
        np.testing.assert_allclose(logits[i], all_logits[2][i][anchors], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(deltas[i], all_deltas[2][i][anchors], rtol=1e-4, atol=1e-4)


def test_box_head_equals_numpy():
    module = BoxHead(3, 0, 0, "none", 1e-5, 2, 16, "float32")
    pooled = np.random.default_rng(1).normal(size=(2, 5, 7, 7, 4)).astype("f")
    variables = filled(module, pooled, scale=0.1)
    logits, deltas = jax.jit(module.apply)(variables, pooled)
    x = pooled.reshape(2, 5, -1)
    layer = {name: (lambda x, p=p: x @ p["kernel"] + p["bias"]) for name, p in variables["params"].items()}
    x = np.maximum(layer["fc7"](np.maximum(layer["fc6"](x), 0)), 0)
    np.testing.assert_allclose(logits, layer["cls_score"](x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(deltas, layer["bbox_pred"](x).reshape(2, 5, 3, 4), rtol=1e-3, atol=1e-4)


def test_mask_head_equals_numpy():
    """Of each RoI the mask of its class; without 3x3 convolutions, each cell becomes two by two by itself."""
    module = MaskHead(3, 0, 4, "none", 1e-5, "float32")
    pooled = np.random.default_rng(8).normal(size=(2, 3, 5, 5, 4)).astype("f")
    classes = jnp.array([[0, 2, 1], [2, 2, 0]])
    variables = filled(module, pooled, classes)
    logits = jax.jit(module.apply)(variables, pooled, classes)
    deconv, classify = (variables["params"][name] for name in ("deconv", "logits"))
    assert deconv["kernel"].shape == (2, 2, 4, 4) and classify["kernel"].shape == (1, 1, 4, 3)
    for b, r, row, column in np.ndindex(2, 3, 10, 10):
        kernel = deconv["kernel"][row % 2, column % 2]
        cell = np.maximum(pooled[b, r, row // 2, column // 2] @ kernel + deconv["bias"], 0)
        expected = cell @ classify["kernel"][0, 0, :, classes[b, r]] + classify["bias"][classes[b, r]]
        np.testing.assert_allclose(logits[b, r, row, column], expected, rtol=1e-4, atol=1e-4)


def test_mask_head_treats_every_roi_alone():
    module = MaskHead(3, 2, 32, "group", 1e-5, "float32")
    pooled = np.random.default_rng(2).normal(size=(2, 3, 14, 14, 4)).astype("f")
    classes = jnp.array([[0, 1, 2], [1, 1, 2]])
    variables = filled(module, pooled, classes, scale=0.2)
    apply = jax.jit(module.apply)
    logits = apply(variables, pooled, classes)
    assert logits.shape == (2, 3, 28, 28)
    swapped = apply(variables, pooled[::-1, ::-1], classes[::-1, ::-1])
    np.testing.assert_allclose(swapped[::-1, ::-1], logits, rtol=1e-4, atol=1e-4)
    changed = pooled.copy()
    changed[0, 0] = 0
    np.testing.assert_allclose(apply(variables, changed, classes)[1], logits[1], rtol=1e-4, atol=1e-4)
    assert "bias" not in variables["params"]["conv0"] and "scale" in variables["params"]["bn1"]


@pytest.mark.parametrize("at_once", [2, 5, 7])
def test_the_mask_head_is_the_same_in_groups(at_once):
    modules = [MaskHead(3, 1, 8, "none", 1e-5, "float32", drawn_at_once) for drawn_at_once in (None, at_once)]
    pooled = jax.random.normal(jax.random.key(5), (2, 7, 4, 4, 8))
    weights = jax.random.normal(jax.random.key(6), (2, 7, 8, 8))
    classes = jnp.arange(14).reshape(2, 7) % 3
    variables = filled(modules[1], pooled, classes, scale=0.3)
    assert jax.tree.structure(variables) == jax.tree.structure(filled(modules[0], pooled, classes))

    def results(module):
        def total(variables, pooled):
            logits = module.apply(variables, pooled, classes)
            return (weights * jax.nn.softplus(logits)).sum(), logits

        (_, logits), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(variables, pooled)
        return jax.tree.leaves((logits, gradients))

    for group, expected in zip(*map(results, reversed(modules)), strict=True):
        assert group.shape == expected.shape
        np.testing.assert_allclose(group, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_heads_return_float32_from_bfloat16_features():
    pyramid, classes = {2: jnp.zeros((1, 4, 4, 8), jnp.bfloat16)}, jnp.zeros((1, 2), jnp.int32)
    outputs = [
        shaped(RPNHead(3, 1, "bfloat16"), pyramid, {2: jnp.zeros((1, 2), jnp.int32)})[0],
        shaped(BoxHead(3, 0, 0, "none", 1e-5, 2, 8, "bfloat16"), jnp.zeros((1, 2, 7, 7, 8), jnp.bfloat16))[0],
        shaped(MaskHead(3, 1, 8, "none", 1e-5, "bfloat16"), jnp.zeros((1, 2, 14, 14, 8), jnp.bfloat16), classes)[0],
    ]
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
    features, _ = shaped(resnet(18, dtype="bfloat16"), jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 2), jnp.int32))
    assert {x.dtype for x in features.values()} == {jnp.dtype("bfloat16")}


def test_every_convolution_of_the_rpn_head_comes_before_its_predictions():
    pyramid = {2: jax.random.normal(jax.random.key(3), (1, 4, 6, 8))}
    extents = {2: jnp.array([[4, 6]])}
    variables = filled(RPNHead(3, 2, "float32"), pyramid, extents)
    params = dict(variables["params"])
    logits, _ = jax.jit(RPNHead(3, 2, "float32").apply)(variables, pyramid, extents)
    first = jax.jit(Conv(8, 3).apply)({"params": params.pop("conv0")}, pyramid[2], extents[2])
    params["conv0"] = params.pop("conv1")
    again, _ = jax.jit(RPNHead(3, 1, "float32").apply)({"params": params}, {2: jax.nn.relu(first)}, extents)
    np.testing.assert_allclose(logits[2], again[2], rtol=1e-4, atol=1e-4)


CLASSES = jnp.array([[1, 2, 0], [2, 0, 0]])


@pytest.mark.parametrize(
    "head, classes",
    [
        (BoxHead(3, 2, 8, "batch", 1e-5, 1, 16, "float32"), ()),
        (MaskHead(3, 2, 8, "batch", 1e-5, "float32"), (CLASSES,)),
    ],
)
def test_empty_slots_do_not_enter_the_statistics_of_a_head(head, classes):
    pooled = jax.random.normal(jax.random.key(4), (2, 3, 7, 7, 4))
    valid = jnp.array([[True, True, False], [True, False, False]])
    variables = filled(head, pooled, *classes, scale=0.1)
    train = jax.jit(partial(head.apply, mutable=["batch_stats"]))
    outputs, updated = train(variables, pooled, *classes, valid)
    changed = jnp.where(valid[:, :, None, None, None], pooled, 50.0)
    again, updated_again = train(variables, changed, *classes, valid)
    for x, y in zip(jax.tree.leaves(outputs), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(x[valid], y[valid], rtol=1e-5, atol=1e-5)
    for x, y in zip(jax.tree.leaves(updated), jax.tree.leaves(updated_again), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_convolutions_of_the_box_head_come_before_its_layers():
    variables = filled(BoxHead(3, 4, 8, "batch", 1e-5, 1, 16, "float32"), jnp.zeros((1, 2, 7, 7, 4)))
    assert variables["params"].keys() == {"fc6", "cls_score", "bbox_pred"} | {
        f"{n}{i}" for n in ("conv", "bn") for i in range(4)
    }
    assert variables["params"]["fc6"]["kernel"].shape == (7 * 7 * 8, 16)
    assert "bias" not in variables["params"]["conv0"]
