"""ViT: sizes, windows, attention against loops, positions, stages, stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ViTConfig
from maskrcnn_jax.modules import backbones, vit
from maskrcnn_jax.modules.vit import Attention, Block, ViT
from maskrcnn_jax.settings import freeze
from tests.conftest import QUICK_COMPILE
from tests.modules.helpers import filled, shaped

SMALL = {"image_side": 64, "width": 8, "depth": 2, "num_heads": 2, "window": 3}
CONFIG = freeze(ViTConfig(**SMALL, global_blocks=(1,), drop_path=0.5))
RNG = np.random.default_rng(0)


def test_the_maps_have_four_strides():
    config = freeze(ViTConfig())
    image, canvas = jnp.zeros((1, 1024, 1024, 3)), jnp.zeros((1, 2), jnp.int32)
    features, _ = shaped(ViT(config), image, canvas)
    assert {level: x.shape for level, x in features.items()} == {
        2: (1, 256, 256, 192),
        3: (1, 128, 128, 384),
        4: (1, 64, 64, 768),
        5: (1, 32, 32, 768),
    }
    assert backbones.channels(config) == {level: x.shape[-1] for level, x in features.items()}


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="image_side is 64.*got 96x64; set data.buckets"):
        shaped(ViT(CONFIG), jnp.zeros((1, 96, 64, 3)), jnp.zeros((1, 2), jnp.int32))


def test_windows_tile_a_map_from_its_corner():
    x = RNG.normal(size=(2, 5, 7, 1)).astype(np.float32)
    windows = vit.split_windows(jnp.asarray(x), 3)
    assert windows.shape == (2 * 2 * 3, 3, 3, 1)
    np.testing.assert_array_equal(windows[7], x[1, :3, 3:6])
    np.testing.assert_array_equal(windows[11], np.pad(x[1, 3:, 6:], ((0, 1), (0, 2), (0, 0))))
    np.testing.assert_array_equal(vit.merge_windows(windows, x.shape), x)


def test_attention_equals_loops():
    """Biases follow the distance of query and key in rows and in columns, times the query."""
    x = RNG.normal(size=(1, 4, 3, 8)).astype(np.float32)
    tables = {"rel_pos_h": RNG.normal(size=(7, 4)), "rel_pos_w": RNG.normal(size=(5, 4))}
    layers = {
        "qkv": {"kernel": RNG.normal(size=(8, 24)), "bias": RNG.normal(size=24)},
        "proj": {"kernel": np.eye(8), "bias": np.zeros(8)},
    }
    params = jax.tree.map(np.float32, {**tables, **layers})
    attend = Attention(2, "float32").apply
    found = jax.jit(attend, compiler_options=QUICK_COMPILE)({"params": params}, x)

    qkv = (x @ layers["qkv"]["kernel"] + layers["qkv"]["bias"]).reshape(4, 3, 3, 2, 4)
    expected = np.zeros((4, 3, 2, 4))
    for i, j, head in np.ndindex(4, 3, 2):
        query, logits = qkv[i, j, 0, head], np.zeros((4, 3))
        for k, m in np.ndindex(4, 3):
            bias = tables["rel_pos_h"][i - k + 3] + tables["rel_pos_w"][j - m + 2]
            logits[k, m] = query @ (qkv[k, m, 1, head] / 2 + bias)
        weights = np.exp(logits - logits.max())
        expected[i, j, head] = np.einsum("km,kmc->c", weights / weights.sum(), qkv[:, :, 2, head])
    np.testing.assert_allclose(found[0], expected.reshape(4, 3, 8), rtol=1e-4, atol=1e-5)


def test_cubic_interpolation_is_pytorchs():
    np.testing.assert_array_equal(vit.cubic(5, 5), np.eye(5))
    matrix = vit.cubic(4, 8)
    np.testing.assert_allclose(matrix.sum(1), 1)
    # At 0.75: cells -1, 0, 1, 2 at the distances 1.75, 0.75, 0.25, 1.25; cell -1 is cell 0 again.
    np.testing.assert_allclose(matrix[2], [0.2265625, 0.87890625, -0.10546875, 0])


def test_stages_are_blocks():
    layers = ["pos_embed", "patch_embed", "blocks_0", "blocks_1", "simfp_2_0"]
    above = [backbones.layers_above(CONFIG, layer) for layer in layers]
    assert above == [3, 3, 2, 1, 0]  # Detectron2's layers count down to the heads, 0.
    frozen = freeze(ViTConfig(frozen_stages=2))
    assert [x for x in layers if backbones.is_frozen(frozen, x)] == layers[:3]


def test_training_drops_branches_of_an_image_and_keeps_the_mean():
    module, x = Block(CONFIG, None, 0.5, "float32"), jnp.asarray(RNG.normal(size=(1, 2, 2, 8)), "f")
    variables = filled(module, x, scale=0.3)
    apply = jax.jit(module.apply, compiler_options=QUICK_COMPILE)
    branch = apply(variables, x) - x

    def train(i):
        return apply(variables, x, rngs={"drop_path": jax.random.key(i)}) - x

    kinds = {round(float(jnp.abs(train(i)).sum()), 3) for i in range(24)}
    assert 0.0 in kinds and len(kinds) == 4  # Neither branch, one, the other, or both.
    assert jnp.abs(branch).sum() > 0


# Some of the queries of the whole image attend at once, all of those of a window.
RUN = Execution(recompute=("blocks",), attention_chunk=8)


def test_rematerialised_blocks_and_chunks_of_queries_give_the_same():
    images, canvas = jnp.asarray(RNG.normal(size=(1, 64, 64, 3)), "f"), jnp.full((1, 2), 64)
    kept, again = ViT(CONFIG), ViT(CONFIG, run=RUN)
    variables = filled(kept, images, canvas, scale=0.3)

    def gradient(module):
        def total(variables):
            return sum(jnp.sin(x).sum() for x in module.apply(variables, images, canvas).values())

        return jax.jit(jax.grad(total), compiler_options=QUICK_COMPILE)(variables)

    pairs = zip(*map(jax.tree.leaves, (gradient(again), gradient(kept))), strict=True)
    for ours, expected in pairs:
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())
