"""Box head against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax.model_config import BoxHeadConfig
from maskrcnn_jax.modules.box_head import BoxHead
from maskrcnn_jax.settings import freeze
from tests.modules.helpers import filled


def test_box_head_equals_numpy():
    module = BoxHead(freeze(BoxHeadConfig(features=16)), 3)
    pooled = np.random.default_rng(1).normal(size=(2, 5, 7, 7, 4)).astype("f")
    variables = filled(module, pooled, scale=0.1)
    logits, deltas = jax.jit(module.apply)(variables, pooled)
    x = pooled.reshape(2, 5, -1)
    layer = {
        name: (lambda x, p=p: x @ p["kernel"] + p["bias"])
        for name, p in variables["params"].items()
    }
    x = np.maximum(layer["fc7"](np.maximum(layer["fc6"](x), 0)), 0)
    np.testing.assert_allclose(logits, layer["cls_score"](x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        deltas, layer["bbox_pred"](x).reshape(2, 5, 3, 4), rtol=1e-3, atol=1e-4
    )


def test_one_box_for_all_classes():
    module = BoxHead(freeze(BoxHeadConfig(features=16, class_agnostic=True)), 3)
    pooled = np.random.default_rng(1).normal(size=(2, 5, 7, 7, 4)).astype("f")
    variables = filled(module, pooled, scale=0.1)
    logits, deltas = jax.eval_shape(module.apply, variables, pooled)
    assert logits.shape == (2, 5, 3) and deltas.shape == (2, 5, 1, 4)
    assert variables["params"]["bbox_pred"]["kernel"].shape == (16, 4)


def test_convolutions_of_the_box_head_come_before_its_layers():
    config = BoxHeadConfig(num_convs=4, channels=8, norm="batch", num_layers=1, features=16)
    variables = filled(BoxHead(freeze(config), 3), jnp.zeros((1, 2, 7, 7, 4)))
    assert variables["params"].keys() == {"fc6", "cls_score", "bbox_pred"} | {
        f"{n}{i}" for n in ("conv", "bn") for i in range(4)
    }
    assert variables["params"]["fc6"]["kernel"].shape == (7 * 7 * 8, 16)
    assert "bias" not in variables["params"]["conv0"]
