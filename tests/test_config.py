"""Settings: assigned freely until frozen, never to unknown names, hashable after."""

import dataclasses

import pytest

from maskrcnn_jax.config import Config, DataConfig, ModelConfig, RPNConfig, freeze


def test_nested_settings_can_be_assigned():
    config = Config()
    config.model.rpn.nms_threshold = 0.6
    config.optimizer.learning_rate = 0.1
    assert config.model.rpn.nms_threshold == 0.6
    assert Config().model.rpn.nms_threshold == 0.7  # No two configs share their parts.


def test_unknown_field_is_refused_and_the_known_ones_named():
    with pytest.raises(AttributeError, match="RPNConfig has no field 'nms_treshold'; its fields are .*nms_threshold"):
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
    assert freeze(ModelConfig()) == freeze(ModelConfig()) != freeze(ModelConfig(depth=101))


def test_lists_become_tuples():
    config = DataConfig()
    config.buckets = [[800, 1344], [1344, 800]]  # As the command line and JSON give them.
    assert freeze(config).buckets == ((800, 1344), (1344, 800))
    hash(freeze(config))


def test_freezing_twice_is_freezing_once():
    once = freeze(Config())
    assert freeze(once) == once and hash(freeze(once)) == hash(once)


def test_defaults_are_those_of_torchvision():
    rpn, roi, detection = ModelConfig().rpn, ModelConfig().roi, ModelConfig().detection
    assert rpn.anchor_sizes == (32, 64, 128, 256, 512) and rpn.aspect_ratios == (0.5, 1.0, 2.0)
    assert (rpn.positive_iou, rpn.negative_iou, rpn.num_samples, rpn.positive_fraction) == (0.7, 0.3, 256, 0.5)
    assert (rpn.train_num_candidates, rpn.train_num_proposals) == (2000, 2000)
    assert (rpn.test_num_candidates, rpn.test_num_proposals) == (1000, 1000)
    assert (rpn.nms_threshold, rpn.score_threshold, rpn.min_box_size) == (0.7, 0.0, 1e-3)
    assert (roi.positive_iou, roi.num_samples, roi.positive_fraction) == (0.5, 512, 0.25)
    assert (roi.box_weights, roi.smooth_l1_beta, rpn.smooth_l1_beta) == ((10, 10, 5, 5), 1 / 9, 1 / 9)
    assert (roi.box_resolution, roi.mask_resolution, roi.sampling_ratio, roi.aligned) == (7, 14, 2, False)
    assert dataclasses.astuple(detection) == (0.05, 0.5, 100, 1e-2)
