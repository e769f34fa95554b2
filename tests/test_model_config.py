"""Values that follow from a network's settings: levels, widths, and arguments of its parts."""

import inspect

from maskrcnn_jax import losses, presets
from maskrcnn_jax.model_config import (
    CascadeConfig,
    ConvNeXtConfig,
    ModelConfig,
    ResNetConfig,
    RPNConfig,
)
from maskrcnn_jax.ops import anchors


def test_levels():
    assert ModelConfig().levels == (2, 3, 4, 5, 6)
    assert ModelConfig(backbone=ConvNeXtConfig(), fpn=None).levels == (5,)
    assert ModelConfig(backbone=ResNetConfig(last_level=4), fpn=None).levels == (4,)
    assert presets.detectron2_r50_dc5().model.levels == (4,)  # C5 has the resolution of C4.


def test_anchors_of_a_cell():
    """Each level of a pyramid has one size; a single map has all."""
    config = ModelConfig()
    assert config.anchors_per_cell == len(config.rpn.aspect_ratios) == 3
    assert presets.detectron2_r50_c4().model.anchors_per_cell == 15


def test_the_width_of_a_resnext():
    assert ResNetConfig().width == 64
    assert ResNetConfig(groups=32, width_per_group=4).width == 128
    assert ResNetConfig(stem_channels=16, groups=32, width_per_group=8).width == 64


def test_the_first_stage_of_a_cascade_counts():
    assert CascadeConfig().num_stages == 3
    assert CascadeConfig(positive_ious=(0.6,)).num_stages == 2


def test_a_part_gives_the_arguments_of_its_functions():
    config = ModelConfig()
    config.rpn.anchor_stride, config.rpn.round_anchors = "level", False
    assert config.rpn.anchors["stride"] == "level" and config.rpn.anchors["rounded"] is False
    for given, function in (
        (config.rpn.anchors, anchors.pyramid_anchors),
        (config.rpn.regression, losses.rpn_loss),
        (config.roi.regression, losses.box_loss),
    ):
        assert given.keys() <= inspect.signature(function).parameters.keys()
    assert RPNConfig(smooth_l1_beta=0.5).regression["beta"] == 0.5
    assert config.roi.regression["box_weights"] == (10, 10, 5, 5)
