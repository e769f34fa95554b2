"""The random weights are complete and reproducible, and as many as those of torchvision."""

import dataclasses

import jax
import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.cli import parity
from maskrcnn_jax.cli.arguments import checks
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    ConvNeXtConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
)
from maskrcnn_jax.parity import recipe
from maskrcnn_jax.weights import torchvision


@pytest.mark.parametrize(
    "variant, num_arrays, num_parameters",
    [
        ("v1", 307, 44_401_393),
        ("v1-batch-norm", 360, 44_454_513),
        ("v2", 432, 46_359_409),
        ("faster-v1", 295, 41_755_286),
        ("faster-v2", 404, 43_712_278),
    ],
)
def test_variants_are_those_of_torchvision(variant, num_arrays, num_parameters):
    config = recipe.config(variant)
    entries = list(torchvision.entries(config))
    counters = [e for e in entries if e.path[0] == "batch_stats" and e.path[-1] == "var"]
    assert len(entries) + len(counters) == num_arrays
    assert sum(np.prod(e.shape) for e in entries if e.path[0] == "params") == num_parameters


@pytest.fixture(scope="module")
def config():
    return ModelConfig(
        num_classes=5,
        backbone=ResNetConfig(depth=18, norm="batch"),
        fpn=FPNConfig(channels=32),
        box_head=BoxHeadConfig(features=64),
        mask_head=MaskHeadConfig(channels=32),
    )


def test_a_state_dict_is_complete_and_repeatable(config):
    state, same = recipe.state_dict(config), recipe.state_dict(config)
    other = recipe.state_dict(config, 1)
    variables = torchvision.from_state_dict(state, config)
    for name, array in torchvision.to_state_dict(variables, config).items():
        np.testing.assert_array_equal(array, state[name])
        np.testing.assert_array_equal(array, same[name])
        assert array.size == 1 or not np.array_equal(array, other[name])
    assert set(torchvision.to_state_dict(variables, config)) == set(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def test_no_statistic_is_trivial(config):
    for name, array in recipe.state_dict(config).items():
        if name.endswith(("running_mean", "running_var", "bias")):
            assert np.ptp(array) > 0, name
        if name.endswith("running_var"):
            assert array.min() > 0.4


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="no variant 'v3', only v1, v1-batch-norm, v2, faster-v1"):
        recipe.config("v3")


def test_the_command_offers_all_variants():
    assert checks.RANDOM_MODELS == recipe.FAMILIES
    assert set(parity.PEERS) == set(recipe.FAMILIES)


def test_group_norm_and_unscaled_pixels(config):
    """The stem of a network whose pixels are 58 times larger is as much smaller."""
    caffe = dataclasses.replace(config, image_std=presets.CAFFE_STD)
    caffe.backbone = ResNetConfig(depth=18, norm="group")
    plain, scaled = recipe.variables(config), recipe.variables(caffe)
    stems = (x["params"]["backbone"]["conv1"]["kernel"] for x in (plain, scaled))
    np.testing.assert_allclose(next(stems), 58 * next(stems), rtol=1e-5)
    assert set(scaled["params"]["backbone"]["bn1"]) == {"scale", "bias"}
    assert "constants" not in scaled and "batch_stats" not in scaled


def test_other_weights_do_not_depend_on_the_mask_head(config):
    state = recipe.state_dict(config)
    faster = recipe.state_dict(dataclasses.replace(config, mask_head=None))
    assert set(state) - set(faster) == {name for name in state if ".mask_" in name}
    for name, array in faster.items():
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize("norm, gain, objectness", [("batch", 0.5, 3.0), ("group", 0.25, 2.0)])
def test_rounding_grows_little_with_group_norm(norm, gain, objectness):
    backbone = ResNetConfig(depth=18, stem_channels=32, norm=norm)
    state = recipe.state_dict(ModelConfig(backbone=backbone, fpn=FPNConfig(norm=norm)))
    last = state["backbone.body.layer1.0.bn2.weight"]
    assert 0.8 * gain <= last.min() and last.max() <= 1.2 * gain
    assert state["backbone.body.layer1.0.bn1.weight"].min() >= 0.8
    logits = state["rpn.head.cls_logits.weight"]
    expected = objectness * np.sqrt(2 / logits[0].size)
    np.testing.assert_allclose(logits.std(), expected, rtol=0.1)


def test_the_pyramid_of_a_convnext_varies_as_that_of_a_resnet():
    """Otherwise all probabilities of the best anchors are 1 in float32."""
    for backbone, gain in ((ResNetConfig(depth=18), 1.0), (ConvNeXtConfig(width=16), 0.2)):
        head = BoxHeadConfig(features=8)
        state = recipe.state_dict(ModelConfig(backbone=backbone, box_head=head, mask_head=None))
        for level in range(4):
            kernel = state[f"backbone.fpn.inner_blocks.{level}.0.weight"]
            expected = gain / np.sqrt(kernel.shape[1])
            np.testing.assert_allclose(kernel.std(), expected, rtol=0.1)
