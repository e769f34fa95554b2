"""Pretrained backbones: torchvision's names and ours, incomplete files, and misfits."""

import re

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.weights import (
    backbones,
    detectron2,
    download,
    files,
    layout,
    torchvision_resnet,
)
from tests.weights.states import with_counters


def config_of(depth=18, norm="frozen_batch"):
    return ModelConfig(backbone=ResNetConfig(depth=depth, norm=norm, stem_channels=4))


def released(config):
    """Makes a state dict like torchvision's releases, with a classifier and batch counters."""
    random = np.random.default_rng(0)
    state = {
        e.name: random.normal(size=e.shape).astype(np.float32)
        for e in torchvision_resnet.entries(config)
    }
    return with_counters(state) | {
        "fc.weight": np.zeros((1000, 32), np.float32),
        "fc.bias": np.zeros(1000, np.float32),
    }


def variables_of(config):
    """Makes variables of ones, including a neck, which no backbone file has."""
    table = list(torchvision_resnet.entries(config))
    ones = layout.arrange({e.name: np.ones(e.shape, np.float32) for e in table}, table)
    ones["params"]["fpn"] = {"lateral2": {"bias": np.ones(3, np.float32)}}
    return {"constants": {}, "batch_stats": {}} | ones


@pytest.mark.parametrize("norm", ["frozen_batch", "batch"])
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvisions_files_replace_the_whole_backbone(tmp_path, depth, norm):
    config = config_of(depth, norm)
    state = released(config)
    files.write(tmp_path / "resnet.pth", state)
    loaded = backbones.load(str(tmp_path / "resnet.pth"), variables_of(config), config)
    kernel = loaded["params"]["backbone"]["layer4_0"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, state["layer4.0.conv2.weight"].transpose(2, 3, 1, 0))
    statistics = loaded["batch_stats" if norm == "batch" else "constants"]["backbone"]["layer2_0"][
        "downsample_bn"
    ]
    np.testing.assert_array_equal(statistics["mean"], state["layer2.0.downsample.1.running_mean"])
    np.testing.assert_array_equal(loaded["params"]["fpn"]["lateral2"]["bias"], 1)
    assert loaded.keys() == {"params", "constants", "batch_stats"}


def test_released_names_are_those_of_the_depth(tmp_path, monkeypatch):
    config = config_of(34)
    files.write(tmp_path / "resnet34.pth", released(config))
    asked = []
    monkeypatch.setattr(
        download, "fetch", lambda name: asked.append(name) or tmp_path / "resnet34.pth"
    )
    backbones.load("IMAGENET1K_V1", variables_of(config), config)
    assert asked == [download.BACKBONES["resnet34", "IMAGENET1K_V1"]]
    with pytest.raises(
        FileNotFoundError, match='IMAGENET1K_V2.*no such file.*resnet34 there is "IMAGENET1K_V1"$'
    ):
        backbones.load("IMAGENET1K_V2", variables_of(config), config)


def resnext(depth=50, groups=4, width_per_group=16):
    """A narrow ResNeXt."""
    groups = {"groups": groups, "width_per_group": width_per_group}
    return ModelConfig(backbone=ResNetConfig(depth=depth, stem_channels=8, **groups))


def test_groups_have_kernels_of_their_own_inputs(tmp_path):
    config = resnext()
    state = released(config)
    assert state["layer1.0.conv2.weight"].shape == (8, 2, 3, 3)
    files.write(tmp_path / "resnext.pth", state)
    loaded = backbones.load(str(tmp_path / "resnext.pth"), variables_of(config), config)
    kernel = loaded["params"]["backbone"]["layer2_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, state["layer2.1.conv2.weight"].transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    "found, ours, message",
    [
        (resnext(), config_of(50), "holds a ResNeXt-50-4x16d, and config.model.backbone is a R"),
        (resnext(), config_of(50), "set its depth=50, groups=4 and width_per_group=16"),
        (config_of(50), resnext(), "holds a ResNet-50, and .* is a ResNeXt-50-4x16d: for the file"),
        (resnext(101), resnext(), "holds a ResNeXt-101-4x16d"),
    ],
)
def test_another_resnext_is_named_with_what_to_set(tmp_path, found, ours, message):
    files.write(tmp_path / "w.pth", released(found))
    with pytest.raises(ValueError, match=f"w.pth {message}" if "holds" in message else message):
        backbones.load(str(tmp_path / "w.pth"), {}, ours)


@pytest.mark.parametrize("detectron2s", [False, True])
def test_the_last_stage_goes_to_the_heads_of_a_c4_network(tmp_path, detectron2s):
    whole = config_of(50)
    state, name = released(whole), "layer4.0.conv2.weight"
    kernel = state[name].transpose(2, 3, 1, 0)
    if detectron2s:
        table = torchvision_resnet.entries(whole)
        state = {
            detectron2.name(e.path[1:-1], whole) + e.name[e.name.rindex(".") :]: e for e in table
        }
        state = {x.removeprefix(detectron2.BODY): released(whole)[e.name] for x, e in state.items()}
    files.write(tmp_path / "resnet.pth", state)
    config = presets.detectron2_r50_c4().model
    config.backbone.stem_channels = 4
    loaded = backbones.load(str(tmp_path / "resnet.pth"), {"params": {}}, config)["params"]
    np.testing.assert_array_equal(loaded["box_head"]["res5"]["layer4_0"]["conv2"]["kernel"], kernel)
    assert "layer4_0" not in loaded["backbone"] and "layer3_5" in loaded["backbone"]


def test_every_misfit_of_torchvisions_names_is_listed(tmp_path):
    config = config_of()
    state = released(config)
    del state["bn1.bias"]
    state["layer1.0.conv1.weight"] = np.zeros((4, 4, 1, 1), np.float32)
    state["maxpool.weight"] = np.zeros(1, np.float32)
    files.write(tmp_path / "resnet.pth", state)
    with pytest.raises(ValueError) as error:
        backbones.load(str(tmp_path / "resnet.pth"), variables_of(config), config)
    parts = (
        "resnet.pth",
        "missing bn1.bias",
        "unexpected maxpool.weight",
        "(4, 4, 1, 1), expected (4, 4, 3, 3)",
    )
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    "config, rename, message",
    [
        (config_of(50), "", "holds a ResNet-18, and config.model.backbone is a ResNet-50: for"),
        (config_of(18, "group"), "", 'norm is "group"'),
        (config_of(), "backbone.body.", "whole detector: give it as config.weights"),
    ],
)
def test_a_file_for_something_else_says_so(tmp_path, config, rename, message):
    files.write(
        tmp_path / "resnet.pth",
        {rename + name: array for name, array in released(config_of()).items()},
    )
    with pytest.raises(ValueError, match=f"resnet.pth .*{re.escape(message)}"):
        backbones.load(str(tmp_path / "resnet.pth"), {}, config)


def test_our_own_names_replace_what_the_file_has(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 4)).astype(np.float32)
    mean = np.arange(4, dtype=np.float32)
    files.write(
        tmp_path / "w.npz",
        {"params/backbone/conv1/kernel": kernel, "constants/backbone/bn1/mean": mean},
    )
    for norm, collection in (("frozen_batch", "constants"), ("batch", "batch_stats")):
        config = config_of(norm=norm)
        loaded = backbones.load(str(tmp_path / "w.npz"), variables_of(config), config)
        np.testing.assert_array_equal(loaded["params"]["backbone"]["conv1"]["kernel"], kernel)
        np.testing.assert_array_equal(loaded[collection]["backbone"]["bn1"]["mean"], mean)
        np.testing.assert_array_equal(loaded[collection]["backbone"]["bn1"]["var"], 1)


def test_our_own_names_that_do_not_fit_are_listed_together(tmp_path):
    arrays = {
        "params/backbone/conv1/kernel": np.zeros((1, 1, 2, 4)),
        "params/backbone/conv9/kernel": np.zeros(1),
        "params/fpn/lateral2/bias": np.zeros(3),  # The neck is not part of the backbone.
    }
    files.write(tmp_path / "w.npz", arrays)
    with pytest.raises(ValueError) as error:
        backbones.load(str(tmp_path / "w.npz"), variables_of(config_of()), config_of())
    parts = (
        "w.npz",
        "unexpected backbone/conv9/kernel",
        "unexpected fpn/lateral2/bias",
        "(1, 1, 2, 4), expected (7, 7",
    )
    assert all(part in str(error.value) for part in parts)
