"""Region proposal network against loops, and the two forms of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import RPNConfig
from maskrcnn_jax.modules.extents import pyramid_extents, zero_beyond
from maskrcnn_jax.modules.layers import Conv
from maskrcnn_jax.modules.rpn import RPN
from maskrcnn_jax.settings import freeze
from tests.modules.helpers import filled


def test_rpn_head_orders_anchors_by_ratio_row_column():
    rng = np.random.default_rng(0)
    pyramid = {
        2: rng.normal(size=(2, 4, 6, 8)).astype("f"),
        3: rng.normal(size=(2, 2, 3, 8)).astype("f"),
    }
    canvas = np.array([[16, 24]] * 2)
    module = RPN(freeze(RPNConfig()))
    variables = filled(module, pyramid, canvas)
    params = variables["params"]
    logits, deltas = jax.jit(module.apply)(variables, pyramid, canvas)
    for level, x in pyramid.items():
        height, width = x.shape[1:3]
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        for row, column in [(0, 0), (1, 2), (height - 1, width - 1)]:
            patch = padded[1, row : row + 3, column : column + 3]
            hidden = (
                np.einsum("yxi,yxio->o", patch, params["conv0"]["kernel"]) + params["conv0"]["bias"]
            )
            hidden = np.maximum(hidden, 0)
            scores = hidden @ params["cls_logits"]["kernel"][0, 0] + params["cls_logits"]["bias"]
            moves = hidden @ params["bbox_pred"]["kernel"][0, 0] + params["bbox_pred"]["bias"]
            anchors = np.arange(3) * height * width + row * width + column
            np.testing.assert_allclose(logits[level][1, anchors], scores, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(
                deltas[level][1, anchors], moves.reshape(3, 4), rtol=1e-3, atol=1e-3
            )


@pytest.mark.parametrize("num_convs", [0, 1, 2])
def test_windows_give_the_scores_and_the_gradient_of_whole_maps(num_convs):
    """Anchors in the corner of a map, in its middle, and at the end of the canvas."""
    rng = np.random.default_rng(7)
    pyramid = {2: rng.normal(size=(2, 8, 9, 8)), 3: rng.normal(size=(2, 4, 5, 8))}
    pyramid = jax.tree.map(lambda x: x.astype("f"), pyramid)
    canvas = jnp.array([[24, 28], [32, 36]])
    indices = jnp.array(
        [
            [0, 72 + 3 * 9 + 4, 2 * 72 + 5 * 9 + 6, 3 * 72 + 7],
            [7 * 9 + 8, 3 * 9 + 4, 2 * 72, 3 * 72 + 20 + 19],
        ]
    )
    config = freeze(RPNConfig(num_convs=num_convs))
    by_maps, by_windows = RPN(config), RPN(config, run=Execution(rpn_windows=True))
    variables = filled(by_maps, pyramid, canvas, scale=0.2)
    weights = rng.normal(size=(2, 4, 5)).astype("f")

    def results(module):
        def total(variables, pyramid):
            extent = pyramid_extents(pyramid, canvas)
            pyramid = {level: zero_beyond(x, extent[level]) for level, x in pyramid.items()}
            _, scores, (logits, deltas) = module.apply(
                variables, pyramid, canvas, indices, method="learn"
            )
            sampled = jnp.concatenate([logits[..., None], deltas], axis=-1)
            return (weights * sampled).sum(), (scores, sampled)

        gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
        (_, found), gradients = jax.jit(gradient)(variables, pyramid)
        return jax.tree.leaves((found, gradients))

    for x, expected in zip(results(by_windows), results(by_maps), strict=True):
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


def test_every_convolution_of_the_rpn_head_comes_before_its_predictions():
    pyramid = {2: jax.random.normal(jax.random.key(3), (1, 4, 6, 8))}
    canvas = jnp.array([[16, 24]])
    two, one = RPN(freeze(RPNConfig(num_convs=2))), RPN(freeze(RPNConfig()))
    variables = filled(two, pyramid, canvas)
    params = dict(variables["params"])
    logits, _ = jax.jit(two.apply)(variables, pyramid, canvas)
    first = jax.jit(Conv(8, 3).apply)({"params": params.pop("conv0")}, pyramid[2])
    params["conv0"] = params.pop("conv1")
    again, _ = jax.jit(one.apply)({"params": params}, {2: jax.nn.relu(first)}, canvas)
    np.testing.assert_allclose(logits[2], again[2], rtol=1e-4, atol=1e-4)
