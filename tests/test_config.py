"""Settings can be assigned until they are frozen, refuse unknown names, and hash when frozen."""

import dataclasses

import pytest

from maskrcnn_jax.config import Config
from maskrcnn_jax.model_config import RPNConfig


def test_nested_settings_can_be_assigned():
    config = Config()
    config.model.rpn.nms_threshold = 0.6
    config.optimizer.learning_rate = 0.1
    assert config.model.rpn.nms_threshold == 0.6
    assert Config().model.rpn.nms_threshold == 0.7  # Two configs share no parts.


def test_unknown_field_is_refused_and_the_known_ones_named():
    message = "RPNConfig has no field 'nms_treshold'; its fields are .*nms_threshold"
    with pytest.raises(AttributeError, match=message):
        RPNConfig().nms_treshold = 0.6
    with pytest.raises(TypeError):
        RPNConfig(nms_treshold=0.6)


def test_defaults_are_those_of_torchvision():
    model, detection = Config().model, Config().detection
    rpn, roi = model.rpn, model.roi
    assert rpn.anchor_sizes == (32, 64, 128, 256, 512) and rpn.aspect_ratios == (0.5, 1.0, 2.0)
    assert (rpn.positive_iou, rpn.negative_iou, rpn.num_samples, rpn.positive_fraction) == (
        0.7,
        0.3,
        256,
        0.5,
    )
    assert (rpn.num_candidates, rpn.num_proposals) == (2000, 2000)
    assert (rpn.nms_threshold, rpn.score_threshold, rpn.min_box_size) == (0.7, 0.0, 1e-3)
    assert (roi.positive_iou, roi.num_samples, roi.positive_fraction) == (0.5, 512, 0.25)
    assert (roi.box_weights, roi.smooth_l1_beta, rpn.smooth_l1_beta) == (
        (10, 10, 5, 5),
        1 / 9,
        1 / 9,
    )
    assert (roi.sampling_ratio, roi.aligned) == (2, False)
    assert (model.box_head.resolution, model.mask_head.resolution) == (7, 14)
    assert dataclasses.astuple(detection) == (1000, 1000, 0.05, 0.5, 100, 1e-2, False, "expanded")
    assert (rpn.low_quality, rpn.min_low_quality_iou, rpn.loss_divisor) == ("label", 0, "drawn")
    assert (roi.low_quality, roi.ground_truth, roi.mask_targets) == ("none", "last", "share")
    assert (rpn.round_anchors, rpn.anchor_stride, model.limit_shrinking) == (True, "canvas", False)
    data = Config().data
    assert (roi.level_rule, data.size_rule, data.resize) == (
        "torchvision",
        "torchvision",
        "bilinear",
    )
    assert (data.keep_rule, data.min_side) == ("torchvision", 0)
    assert Config().optimizer.decay == "all"
