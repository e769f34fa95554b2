"""The precedence of the eps: argument, config, weights, released file, default."""

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import FPNConfig, ModelConfig, ResNetConfig
from maskrcnn_jax.weights import download, norm_eps
from maskrcnn_jax.weights.norm_eps import NormEps

DIGEST = {
    name: download.DETECTORS[name].split("-")[1][:8] + 56 * "0" for name in download.DETECTORS
}


def chosen(model, **settings):
    return {name: eps.value for name, eps in norm_eps.choose(model, **settings).items()}


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn"])
def test_the_first_versions_were_released_without(name):
    model = presets.PRESETS[name]()
    found = norm_eps.choose(model, digest=DIGEST[name])
    assert found == {"backbone": NormEps(0.0, f"as the released {name} was trained")}
    assert chosen(model) == chosen(model, digest=64 * "0") == {"backbone": 1e-5}


def test_a_norm_that_trains_needs_one():
    model = presets.maskrcnn_resnet50_fpn(norm="batch")
    assert chosen(model, digest=DIGEST["maskrcnn_resnet50_fpn"]) == {"backbone": 1e-5}


def test_second_versions_have_the_default_in_every_part():
    model = presets.maskrcnn_resnet50_fpn_v2()
    found = norm_eps.choose(model, digest=DIGEST["maskrcnn_resnet50_fpn_v2"])
    expected = NormEps(1e-5, "PyTorch's default")
    assert found == dict.fromkeys(("backbone", "fpn", "box_head", "mask_head"), expected)
    without = presets.fasterrcnn_resnet50_fpn_v2()
    assert norm_eps.choose(without).keys() == {"backbone", "fpn", "box_head"}


def test_the_weights_say_it_for_parts_of_the_same_norm():
    carried = ModelConfig(
        backbone=ResNetConfig(norm="batch", norm_eps=1e-3),
        fpn=FPNConfig(norm="batch", norm_eps=1e-2),
        mask_head=None,
    )
    model = presets.maskrcnn_resnet50_fpn_v2()
    model.fpn.norm = "group"
    found = norm_eps.choose(model, carried=carried)
    assert found["backbone"] == NormEps(1e-3, "as the weights say")
    assert found["fpn"].value == found["box_head"].value == found["mask_head"].value == 1e-5


def test_a_configuration_that_says_something_wins_in_that_part_alone():
    config = presets.maskrcnn_resnet50_fpn_v2()
    config.fpn.norm_eps = 1e-4
    carried = presets.maskrcnn_resnet50_fpn_v2()
    carried.backbone.norm_eps = carried.fpn.norm_eps = 1e-3
    found = norm_eps.choose(config, config=config, carried=carried)
    assert found["fpn"] == NormEps(1e-4, "as the configuration says")
    assert found["backbone"] == NormEps(1e-3, "as the weights say")


def test_the_argument_wins_over_all_in_all_parts():
    config = presets.maskrcnn_resnet50_fpn_v2()
    config.fpn.norm_eps = 1e-3
    found = norm_eps.choose(config, given=0.5, config=config, carried=config)
    assert set(found.values()) == {NormEps(0.5, "as given")} and len(found) == 4


def test_a_copy_is_given_the_eps_and_the_original_keeps_its_own():
    model = presets.maskrcnn_resnet50_fpn()
    other = norm_eps.replace(model, norm_eps.choose(model, given=0.25))
    assert other.backbone.norm_eps == 0.25 and model.backbone.norm_eps == 1e-5
    assert other.fpn.norm_eps == 1e-5  # The FPN has no norm.
