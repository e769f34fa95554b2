"""Settings can be assigned until they are frozen, refuse unknown names, and hash when frozen."""

import dataclasses
import json

import pytest

from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.model_config import CascadeConfig, MaskHeadConfig, ModelConfig, RPNConfig
from maskrcnn_jax.settings import differences, freeze, from_dict, to_dict


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


def test_frozen_settings_refuse_assignment_at_every_depth():
    frozen = freeze(Config())
    with pytest.raises(AttributeError, match="frozen"):
        frozen.seed = 1
    with pytest.raises(AttributeError, match="frozen"):
        frozen.model.rpn.num_samples = 1


def test_freezing_copies():
    config = Config()
    frozen = freeze(config)
    config.model.rpn.num_samples = 7
    config.seed = 3
    assert frozen.model.rpn.num_samples == 256 and frozen.seed == 0


def test_only_frozen_settings_have_a_hash_and_equal_ones_share_it():
    with pytest.raises(TypeError, match="freeze"):
        hash(ModelConfig())
    assert hash(freeze(ModelConfig())) == hash(freeze(ModelConfig()))
    assert freeze(ModelConfig()) == freeze(ModelConfig()) != freeze(ModelConfig(num_classes=2))


def test_lists_become_tuples():
    config = DataConfig()
    config.buckets = [[800, 1344], [1344, 800]]  # The command line and JSON give lists.
    assert freeze(config).buckets == ((800, 1344), (1344, 800))
    hash(freeze(config))


def test_freezing_twice_is_freezing_once():
    once = freeze(Config())
    assert freeze(once) == once and hash(freeze(once)) == hash(once)


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


def test_differences_are_named_by_their_path():
    other = Config()
    other.model.mask_head.channels, other.execution.space = 8, 2
    expected = ["model.mask_head.channels: 256 -> 8", "execution.space: 1 -> 2"]
    assert differences(Config(), other) == expected
    other.model.mask_head = None
    (without, _) = differences(other, Config())
    assert without.startswith("model.mask_head: None -> MaskHeadConfig(")


def test_absent_heads_survive_json():
    config = Config()
    config.model.mask_head = None
    restored = from_dict(Config, to_dict(config))
    assert restored == config and freeze(restored).model.mask_head is None
    assert from_dict(Config, {}).model.mask_head == MaskHeadConfig()


def test_stages_that_defaults_lack_survive_json():
    config = Config()
    config.model.cascade = CascadeConfig(positive_ious=(0.6,), box_weights=((1.0, 2.0, 3.0, 4.0),))
    restored = from_dict(Config, json.loads(json.dumps(to_dict(config))))
    assert restored == config and isinstance(restored.model.cascade, CascadeConfig)
    assert hash(freeze(restored)) == hash(freeze(config))
