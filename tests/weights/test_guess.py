"""Guesses about a weight file, from the arrays that it has."""

import numpy as np
import pytest

from maskrcnn_jax.model_config import CascadeConfig, ModelConfig, ResNetConfig
from maskrcnn_jax.weights import guess


def name(path, config):
    return ".".join(path)


@pytest.mark.parametrize("scale", [1.0, 58.0])
def test_the_ratio_of_a_stem_is_the_variance_of_its_input(scale):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(64, 3, 7, 7)).astype(np.float32)
    pixels = scale * rng.normal(size=(3 * 7 * 7, 4000))
    variance = (kernel.reshape(64, -1) @ pixels).var(axis=1)
    ratio = guess.input_ratio(kernel, variance)
    assert ratio == pytest.approx(scale**2, rel=0.1)
    assert (ratio < guess.NORMALISED_BELOW) == (scale == 1.0)


def test_without_a_variance_there_is_no_ratio():
    kernel, variance = np.ones((4, 3)), np.ones(4)
    assert guess.input_ratio(kernel, variance) == pytest.approx(1 / 3)
    kernel[1:] = 0  # Channels without weights say nothing.
    assert guess.input_ratio(kernel, variance) == pytest.approx(1 / 3)
    for missing in ((None, variance), (kernel, None), (kernel, np.ones(3)), (0 * kernel, variance)):
        assert guess.input_ratio(*missing) is None


def cell(size, ratios=(0.5, 1.0, 2.0), rounded=False):
    height = size * np.sqrt(ratios)
    boxes = np.stack([-(size**2) / height, -height, size**2 / height, height], axis=1) / 2
    return np.round(boxes) if rounded else boxes


def test_anchors_say_their_sizes_and_ratios():
    found = guess.anchors({3: cell(64), 2: cell(32)})
    assert found == ((32.0, 64.0), (0.5, 1.0, 2.0), False)
    assert guess.anchors({2: cell(32, rounded=True)})[2]
    # A single square of whole pixels is no evidence of rounding.
    assert guess.anchors({2: cell(32, ratios=(1.0,), rounded=True)})[2] is False


@pytest.mark.parametrize(
    "cells, message",
    [
        ({2: np.zeros(4)}, "anchors of level 2 are no boxes"),
        ({2: np.zeros((3, 5))}, "anchors of level 2 are no boxes"),
        ({2: cell(32), 3: cell(64)[:, ::-1]}, "anchors of level 3 are no boxes"),
        ({2: cell(32), 3: cell(64, (0.5, 1.0, 3.0))}, "other aspect ratios on each level"),
    ],
)
def test_arrays_that_are_no_anchors(cells, message):
    with pytest.raises(ValueError, match=message):
        guess.anchors(cells)


def test_the_depth_of_a_resnet():
    pattern = r"layer([1-4])\.(\d)\.(conv3\.)?"
    names = [f"layer{stage}.{i}.conv1." for stage in range(1, 5) for i in range(2)]
    assert guess.resnet_depth(names, pattern) == 18
    with pytest.raises(ValueError, match="is no ResNet of 18, 34, 50, 101 or 152 layers"):
        guess.resnet_depth(names[:-1], pattern)


@pytest.mark.parametrize("groups, width", [(1, 64), (32, 4), (32, 8), (1, 128)])
def test_the_groups_of_a_resnext(groups, width):
    backbone = ResNetConfig()
    first = np.empty((groups * width, 64, 1, 1))
    second = np.empty((groups * width, width, 3, 3))
    guess.set_groups(backbone, first, second)
    assert (backbone.groups, backbone.width_per_group) == (groups, width)
    for kernels in ((None, second), (first, None), (first[0], second)):
        guess.set_groups(backbone, *kernels)
        assert (backbone.groups, backbone.width_per_group) == (groups, width)


def test_the_stages_of_a_box_head():
    pattern = r"head\.(\d)\."
    assert guess.num_stages(["head.fc", "other.7.x"], pattern) == 0
    assert guess.num_stages([f"head.{i}.fc" for i in (2, 0, 1)], pattern) == 3
    with pytest.raises(ValueError, match="not of 3 stages: the last is 1"):
        guess.num_stages(["head.1.fc"], pattern)


def test_widths_come_from_the_arrays_that_are_there():
    config = ModelConfig()
    guess.set_widths(
        config,
        {
            "backbone.conv1.weight": np.empty((16, 3, 7, 7)),
            "rpn.cls_logits.weight": np.empty((3, 24, 1, 1)),
            "box_head.cls_score.weight": np.empty((5, 40)),
            "mask_head.logits.weight": np.empty((5, 12, 1, 1)),
        },
        name,
    )
    assert config.backbone.stem_channels == 16 and config.fpn.channels == 24
    assert config.box_head.features == 40 and config.mask_head.channels == 12
    broken = {"rpn.cls_logits.weight": np.empty(3), "mask_head.logits.weight": np.empty((5, 0))}
    guess.set_widths(config, broken, name)  # Named later as of a wrong shape.
    assert config.fpn.channels == 24 and config.mask_head.channels == 12


@pytest.mark.parametrize("num_classes, boxes, agnostic", [(4, 4, True), (4, 12, False)])
def test_one_box_for_all_classes(num_classes, boxes, agnostic):
    config = ModelConfig(num_classes=num_classes)
    state = {"box_head.bbox_pred.bias": np.empty(boxes), "mask_head.logits.bias": np.empty(1)}
    guess.set_class_agnostic(config, state, name)
    assert config.box_head.class_agnostic == agnostic and config.mask_head.class_agnostic
    config.num_classes = 2  # Both forms are the same.
    guess.set_class_agnostic(config, state | {"box_head.bbox_pred.bias": np.empty(4)}, name)
    assert not config.box_head.class_agnostic and not config.mask_head.class_agnostic


def test_a_cascade_has_one_box_for_all_classes():
    config = ModelConfig(num_classes=4, cascade=CascadeConfig(), mask_head=None)
    state = {"box_head.stage_0.bbox_pred.bias": np.empty(12)}
    with pytest.raises(ValueError, match="is a Cascade R-CNN with a box for each class"):
        guess.set_class_agnostic(config, state, name)
    config.num_classes = 2
    guess.set_class_agnostic(config, {"box_head.stage_0.bbox_pred.bias": np.empty(4)}, name)
    assert config.box_head.class_agnostic
