"""Mask head against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import BoxHeadConfig, MaskHeadConfig, ResNetConfig, RPNConfig
from maskrcnn_jax.modules.box_head import BoxHead
from maskrcnn_jax.modules.mask_head import MaskHead
from maskrcnn_jax.modules.resnet import ResNet
from maskrcnn_jax.modules.rpn import RPN
from maskrcnn_jax.settings import freeze
from tests.modules.helpers import filled, shaped


def test_mask_head_equals_numpy():
    """Without 3x3 convolutions, each cell becomes two by two cells by itself."""
    module = MaskHead(freeze(MaskHeadConfig(num_convs=0, channels=4)), 3)
    pooled = np.random.default_rng(8).normal(size=(2, 3, 5, 5, 4)).astype("f")
    classes = jnp.array([[0, 2, 1], [2, 2, 0]])
    variables = filled(module, pooled, classes)
    logits = jax.jit(module.apply)(variables, pooled, classes)
    deconv, classify = (variables["params"][name] for name in ("deconv", "logits"))
    assert deconv["kernel"].shape == (2, 2, 4, 4) and classify["kernel"].shape == (1, 1, 4, 3)
    for b, r, row, column in np.ndindex(2, 3, 10, 10):
        kernel = deconv["kernel"][row % 2, column % 2]
        cell = np.maximum(pooled[b, r, row // 2, column // 2] @ kernel + deconv["bias"], 0)
        expected = (
            cell @ classify["kernel"][0, 0, :, classes[b, r]] + classify["bias"][classes[b, r]]
        )
        np.testing.assert_allclose(logits[b, r, row, column], expected, rtol=1e-4, atol=1e-4)


def test_one_mask_for_all_classes():
    """It is the mask of heads that have the same parameters for each class."""
    module, each = (
        MaskHead(freeze(MaskHeadConfig(num_convs=0, channels=4, class_agnostic=one)), 3)
        for one in (True, False)
    )
    pooled = np.random.default_rng(8).normal(size=(2, 3, 5, 5, 4)).astype("f")
    classes = jnp.array([[0, 2, 1], [2, 2, 0]])
    variables = filled(module, pooled, classes)
    found = jax.jit(module.apply)(variables, pooled, classes)
    logits = variables["params"]["logits"]
    assert logits["kernel"].shape == (1, 1, 4, 1)
    tiled = jax.tree.map(lambda x: jnp.tile(x, 3), logits)
    of_each = {"params": variables["params"] | {"logits": tiled}}
    expected = jax.jit(each.apply)(of_each, pooled, classes)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_mask_head_treats_every_roi_alone():
    config = MaskHeadConfig(num_convs=2, channels=32, norm="group")
    module = MaskHead(freeze(config), 3)
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
    np.testing.assert_allclose(
        apply(variables, changed, classes)[1], logits[1], rtol=1e-4, atol=1e-4
    )
    assert "bias" not in variables["params"]["conv0"] and "scale" in variables["params"]["bn1"]


@pytest.mark.parametrize("chunk", [2, 5, 7])
def test_chunks_of_rois_give_the_same(chunk):
    config = freeze(MaskHeadConfig(num_convs=1, channels=8))
    whole, chunked = MaskHead(config, 3), MaskHead(config, 3, run=Execution(upsample_chunk=chunk))
    pooled = jax.random.normal(jax.random.key(5), (2, 7, 4, 4, 8))
    weights = jax.random.normal(jax.random.key(6), (2, 7, 8, 8))
    classes = jnp.arange(14).reshape(2, 7) % 3
    valid = jnp.arange(7).reshape(1, 7) < jnp.array([[4], [3]])
    variables = filled(chunked, pooled, classes, scale=0.3)
    assert jax.tree.structure(variables) == jax.tree.structure(filled(whole, pooled, classes))

    def results(module):
        def total(variables, pooled):
            logits = module.apply(variables, pooled, classes, valid)
            logits = jnp.where(valid[:, :, None, None], logits, 0)
            return (weights * jax.nn.softplus(logits)).sum(), logits

        gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
        (_, logits), gradients = jax.jit(gradient)(variables, pooled)
        return jax.tree.leaves((logits, gradients))

    for found, expected in zip(results(chunked), results(whole), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_heads_return_float32_from_bfloat16_features():
    pyramid, classes = {2: jnp.zeros((1, 4, 4, 8), jnp.bfloat16)}, jnp.zeros((1, 2), jnp.int32)
    pooled, canvas = jnp.zeros((1, 2, 7, 7, 8), jnp.bfloat16), jnp.zeros((1, 2), jnp.int32)
    outputs = [
        shaped(RPN(freeze(RPNConfig()), "bfloat16"), pyramid, canvas)[0],
        shaped(BoxHead(freeze(BoxHeadConfig(features=8)), 3, "bfloat16"), pooled)[0],
        shaped(MaskHead(freeze(MaskHeadConfig(num_convs=1)), 3, "bfloat16"), pooled, classes)[0],
    ]
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
    resnet = ResNet(freeze(ResNetConfig(depth=18)), "bfloat16")
    features, _ = shaped(resnet, jnp.zeros((1, 32, 32, 3)), canvas)
    assert {x.dtype for x in features.values()} == {jnp.dtype("bfloat16")}


CLASSES = jnp.array([[1, 2, 0], [2, 0, 0]])
CONVS = {"num_convs": 2, "channels": 8, "norm": "batch"}


@pytest.mark.parametrize(
    "head, classes",
    [
        (BoxHead(freeze(BoxHeadConfig(features=16, num_layers=1, **CONVS)), 3), ()),
        (MaskHead(freeze(MaskHeadConfig(**CONVS)), 3), (CLASSES,)),
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
