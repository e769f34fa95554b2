"""Settings: freezing, comparison, json."""

import json

import pytest

from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.model_config import CascadeConfig, MaskHeadConfig, ModelConfig
from maskrcnn_jax.settings import differences, freeze, from_dict, to_dict


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
