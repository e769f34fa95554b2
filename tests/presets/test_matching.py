"""A preset for a network whose arrays are known: what each of them says."""

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import FPNConfig


def test_a_preset_says_the_size_of_masks_but_not_that_of_a_c4_network():
    given = presets.detectron2_r50_fpn(4)
    given.model.mask_head.resolution = 28
    found = presets.detectron2_r50_fpn(4)
    assert presets.applied(given, found).model.mask_head.resolution == 28
    assert found.model.mask_head.resolution == 14
    assert presets.applied(given, presets.detectron2_r50_c4(4)).model.mask_head.resolution == 7


def test_a_preset_without_a_pyramid_says_the_dilation_of_the_last_stage():
    given = presets.detectron2_r50_dc5()
    given.model.backbone.c5_dilation = 1
    dilated = presets.detectron2_r50_dc5(4)
    assert presets.applied(given, dilated).model.backbone.c5_dilation == 1
    given.model.fpn = FPNConfig()
    assert presets.applied(given, dilated).model.backbone.c5_dilation == 2


def test_a_preset_says_what_trains_of_a_norm_with_fixed_statistics():
    found = presets.mmdet_r50_fpn(4)
    for preset, norm in (("mmdet_r50_caffe_fpn", "frozen_batch"), ("mmdet_r50_fpn", "fixed_batch")):
        assert presets.applied(preset, found).model.backbone.norm == norm
    found.model.backbone.norm = "batch"
    assert presets.applied("mmdet_r50_caffe_fpn", found).model.backbone.norm == "batch"


def test_layers_and_classes_come_from_the_arrays_and_rules_from_the_preset():
    found = presets.detectron2_r50_fpn(4)
    found.model.backbone.depth, found.model.backbone.stem_channels = 101, 32
    found.model.rpn.num_convs, found.model.rpn.nms_threshold = 2, 0.6
    found.model.fpn.channels, found.model.mask_head.channels = 64, 48
    chosen = presets.applied("mmdet_r50_fpn", found).model
    assert (chosen.num_classes, chosen.backbone.depth, chosen.backbone.stem_channels) == (
        4,
        101,
        32,
    )
    assert (chosen.rpn.num_convs, chosen.fpn.channels, chosen.mask_head.channels) == (2, 64, 48)
    assert chosen.rpn.nms_threshold == 0.7 and chosen.roi.level_rule == "mmdetection"
    assert chosen.limit_shrinking and not chosen.backbone.stride_in_1x1


def test_the_given_preset_and_the_found_config_stay_as_they_are():
    given, found = presets.mmdet_r50_fpn(4), presets.detectron2_r50_fpn(7)
    chosen = presets.applied(given, found)
    chosen.model.mask_head.channels = chosen.model.rpn.num_convs = 9
    assert given == presets.mmdet_r50_fpn(4) and found == presets.detectron2_r50_fpn(7)


def test_a_preset_says_the_classifier_and_the_drawn_classes():
    given, found = presets.detectron2_r50_fpn(4), presets.detectron2_r50_fpn(4)
    given.model.box_head.classifier, given.model.box_head.federated_classes = "sigmoid", 50
    given.model.box_head.federated_power = 0.25
    head = presets.applied(given, found).model.box_head
    assert (head.classifier, head.federated_classes, head.federated_power) == ("sigmoid", 50, 0.25)
    found.model.box_head.class_frequencies = (1.0, 2.0, 3.0)  # They are taken to a power already.
    assert presets.applied(given, found).model.box_head.federated_power != 0.25


def test_another_kind_of_backbone_is_refused():
    with pytest.raises(ValueError, match="the preset has a ViTConfig, the file another backbone"):
        presets.applied("detectron2_vitdet_b", presets.detectron2_r50_fpn(4))


@pytest.mark.parametrize(
    "name",
    [
        "detectron2_r50_fpn_lsj",
        "detectron2_vitdet_l",
        "detectron2_r50_dc5",
        "mmdet_x101_32x8d_fpn",
        "mmdet_r50_caffe_fpn",
        "mmdet_cascade_r50_fpn",
    ],
)
def test_a_network_has_the_name_of_a_preset_of_its_kind(name):
    model = presets.OF_OTHERS[name](5).model
    model.rpn.anchor_sizes = (16.0, 32.0, 64.0, 128.0, 256.0)
    found = presets.name_of(model)
    same = {"detectron2_r50_fpn_lsj": "detectron2_r50_fpn_syncbn"}  # They differ in training.
    same["mmdet_r50_caffe_fpn"] = "mmdet_r50_fpn"  # And these in their pixels.
    assert found == same.get(name, name)


def test_another_network_has_no_name():
    model = presets.detectron2_r50_fpn(5).model
    model.backbone.depth = 34
    assert presets.name_of(model) is None
