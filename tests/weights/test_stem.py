"""Weights of three channels in models of other numbers of channels."""

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.weights import (
    backbones,
    detectron2,
    files,
    layout,
    loading,
    mmdetection,
    stem,
    torchvision,
    torchvision_resnet,
)
from tests.weights import families
from tests.weights.states import small, state_of

CONV1 = "params", "backbone", "conv1", "kernel"


def with_channels(config, count, std=0.25):
    config.image_mean, config.image_std = (0.5,) * count, (std,) * count
    return config


def oracle(kernel, count):
    """The filters [o, n, h, w] of the channels of a model, for filters [o, 3, h, w]."""
    if count == 1:
        return kernel[:, :1] + kernel[:, 1:2] + kernel[:, 2:]
    picked = [kernel[:, channel % 3] for channel in range(count)]
    return np.stack(picked, axis=1) * (3 / count)


def conv1_of(variables):
    for name in CONV1:
        variables = variables[name]
    return np.asarray(variables).transpose(3, 2, 0, 1)


def expect(variables, kernel, count):
    np.testing.assert_allclose(conv1_of(variables), oracle(kernel, count), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 13])
def test_torchvisions_filters_serve_other_channels(tmp_path, count):
    state = state_of(small(presets.maskrcnn_resnet50_fpn(3)))
    files.write(tmp_path / "w.pth", state)
    config = with_channels(small(presets.maskrcnn_resnet50_fpn(3)), count)
    loaded = loading.load(tmp_path / "w.pth", config)
    expect(loaded.variables, state[torchvision.STEM], count)
    report = str(loaded.report)
    rule = "added up for the 1 channel" if count == 1 else f"serve the {count} channels in turn"
    assert rule in report and f", {count} channel" in report
    assert "conv1 does not train, since model.backbone.frozen_stages is 2: with 0" in report
    config.backbone.frozen_stages = 0
    assert "does not train" not in str(loading.load(tmp_path / "w.pth", config).report)


def test_a_grey_image_gives_what_it_gave_as_rgb():
    random = np.random.default_rng(0)
    kernel, grey = random.normal(size=(4, 3, 7, 7)), random.normal(size=(9, 8))
    table = [layout.entry("conv1.weight", CONV1, kernel.shape, (2, 3, 1, 0))]
    arrays = {"conv1.weight": kernel}
    stem.adapt(arrays, table, with_channels(ModelConfig(), 1), (0.2,) * 3)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (7, 7))
    as_rgb = np.einsum("yxhw,ochw->oyx", windows, kernel)
    alone = np.einsum("yxhw,ohw->oyx", windows, arrays["conv1.weight"][:, 0])
    np.testing.assert_allclose(alone, as_rgb, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("std, scale", [(0.25, 0.226 * 255), (1 / 255, 1.0)])
@pytest.mark.parametrize(
    "family, preset",
    [(detectron2, presets.detectron2_r50_fpn), (mmdetection, presets.mmdet_r50_caffe_fpn)],
)
def test_filters_for_0_to_255_are_scaled(tmp_path, family, preset, std, scale):
    """They learned in the order BGR, so the first channel gets the last filter."""
    config = families.reduced(preset())
    state = families.state_of(family, config)
    files.write(tmp_path / "w.pth", state)
    config.model = with_channels(config.model, 13, std)
    loaded = loading.load(tmp_path / "w.pth", config.model)
    expect(loaded.variables, scale * state[family.STEM][:, ::-1], 13)
    assert ("and times 57.6, since they learned" in str(loaded.report)) == (scale > 1)


def resnet(count):
    return with_channels(ModelConfig(backbone=ResNetConfig(depth=18, stem_channels=4)), count)


def initial(config):
    table = list(torchvision_resnet.entries(config))
    ones = layout.arrange({e.name: np.ones(e.shape, np.float32) for e in table}, table)
    return {"constants": {}, "batch_stats": {}} | ones


@pytest.mark.parametrize("count", [1, 2, 4, 13])
def test_backbones_of_imagenet_serve_other_channels(tmp_path, count):
    random, told = np.random.default_rng(0), []
    table = list(torchvision_resnet.entries(resnet(3)))
    state = {x.name: random.normal(size=x.shape).astype(np.float32) for x in table}
    files.write(tmp_path / "resnet.pth", state)
    config = resnet(count)
    loaded = backbones.load(str(tmp_path / "resnet.pth"), initial(config), config, told.append)
    expect(loaded, state["conv1.weight"], count)
    assert "conv1: its filters of red, green and blue" in told[0] and len(told) == 2


def test_backbones_of_caffe_are_scaled(tmp_path):
    config, told = resnet(4), []
    table = [
        detectron2.renamed(x, detectron2.name(x.path[1:-1], config))
        for x in torchvision_resnet.entries(resnet(3))
    ]
    random = np.random.default_rng(0)
    state = {
        x.name.removeprefix(detectron2.BODY): random.normal(size=x.shape).astype(np.float32)
        for x in table
    }
    kernel = state["stem.conv1.weight"]
    state["stem.conv1.norm.running_var"] = np.square(kernel).sum((1, 2, 3)) * np.float32(58) ** 2
    files.write(tmp_path / "w.pth", state)
    loaded = backbones.load(str(tmp_path / "w.pth"), initial(config), config, told.append)
    expect(loaded, 0.226 * 255 * kernel[:, ::-1], 4)
    assert "and times 57.6, since they learned from pixels of 0 to 255" in told[0]


def test_our_own_weights_serve_other_channels(tmp_path):
    config, told = resnet(4), []
    kernel = np.random.default_rng(0).normal(size=(4, 3, 7, 7)).astype(np.float32)
    files.write(
        tmp_path / "stem.npz", {"params/backbone/conv1/kernel": kernel.transpose(2, 3, 1, 0)}
    )
    variables = backbones.load(str(tmp_path / "stem.npz"), initial(config), config, told.append)
    expect(variables, kernel, 4)
    assert len(told) == 2


def test_other_numbers_than_three_do_not_change(tmp_path):
    state = state_of(with_channels(small(presets.maskrcnn_resnet50_fpn(3)), 4))
    files.write(tmp_path / "w.pth", state)
    same = loading.load(
        tmp_path / "w.pth", with_channels(small(presets.maskrcnn_resnet50_fpn(3)), 4)
    )
    np.testing.assert_array_equal(conv1_of(same.variables), state[torchvision.STEM])
    assert "conv1" not in str(same.report)
    with pytest.raises(ValueError, match=r"conv1.weight has shape \(4, 4, 7, 7\), expected \(4, 5"):
        loading.load(tmp_path / "w.pth", with_channels(small(presets.maskrcnn_resnet50_fpn(3)), 5))
