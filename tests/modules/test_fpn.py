"""Feature pyramid: biases or norms, and the sums of the top-down path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import FPNConfig
from maskrcnn_jax.modules.fpn import FPN
from maskrcnn_jax.settings import freeze
from tests.modules.helpers import filled, shaped


def pyramid_shapes(height, width, channels):
    return {
        level: jnp.zeros((1, height // 2**level, width // 2**level, channels))
        for level in (2, 3, 4, 5)
    }


@pytest.mark.parametrize("norm, extra", [("none", 8 * 32), ("group", 2 * 8 * 32)])
def test_fpn_has_a_bias_or_a_norm_after_every_convolution(norm, extra):
    features = pyramid_shapes(800, 1088, 16)
    canvas = jnp.zeros((1, 2), jnp.int32)
    pyramid, sizes = shaped(FPN(freeze(FPNConfig(channels=32, norm=norm))), features, canvas)
    assert {level: x.shape[1:] for level, x in pyramid.items()} == {
        2: (200, 272, 32),
        3: (100, 136, 32),
        4: (50, 68, 32),
        5: (25, 34, 32),
        6: (13, 17, 32),
    }
    assert sizes == {"params": 4 * 16 * 32 + 4 * 9 * 32 * 32 + extra}


def test_fpn_adds_each_cell_to_the_four_below_it():
    """With identity convolutions, P is C plus the upsampled P above; P6 is every second cell."""
    rng = np.random.default_rng(0)
    features = {
        level: rng.normal(size=(1, 96 // 2**level, 160 // 2**level, 4)).astype("f")
        for level in (2, 3, 4, 5)
    }
    identity, center = np.eye(4, dtype="f").reshape(1, 1, 4, 4), np.zeros((3, 3, 4, 4), "f")
    center[1, 1] = np.eye(4)
    params = {
        f"lateral{level}": {"kernel": identity, "bias": np.zeros(4, "f")} for level in features
    }
    params |= {f"output{level}": {"kernel": center, "bias": np.zeros(4, "f")} for level in features}
    module = FPN(freeze(FPNConfig(channels=4)))
    pyramid = jax.jit(module.apply)({"params": params}, features, jnp.array([[96, 160]]))
    expected = {5: features[5]}
    for level in (4, 3, 2):
        expected[level] = features[level] + expected[level + 1].repeat(2, axis=1).repeat(2, axis=2)
    expected[6] = expected[5][:, ::2, ::2]
    assert list(pyramid) == [2, 3, 4, 5, 6]
    assert pyramid[6].shape == (1, 2, 3, 4)
    for level, x in pyramid.items():
        np.testing.assert_allclose(x, expected[level], rtol=1e-5, atol=1e-5)


def test_a_rematerialised_top_down_path_gives_the_same():
    rng = np.random.default_rng(9)
    features = {3: rng.normal(size=(1, 8, 12, 4)), 2: rng.normal(size=(1, 16, 24, 4))}
    features = jax.tree.map(lambda x: x.astype("f"), features)
    canvas, config = jnp.array([[64, 96]]), freeze(FPNConfig(channels=4))
    kept, again = FPN(config), FPN(config, run=Execution(recompute=("top_down",)))
    variables = filled(kept, features, canvas, scale=0.3)
    assert jax.tree.structure(variables) == jax.tree.structure(filled(again, features, canvas))

    def gradients(module):
        def total(variables, features):
            maps = module.apply(variables, features, canvas)
            return sum(jnp.sin(x).sum() for x in maps.values())

        gradient = jax.grad(total, argnums=(0, 1))
        return jax.tree.leaves(jax.jit(gradient)(variables, features))

    for x, expected in zip(gradients(again), gradients(kept), strict=True):
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
