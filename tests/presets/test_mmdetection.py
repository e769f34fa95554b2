"""Rules in which MMDetection's networks differ from Detectron2's of the same layers."""

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.presets.mmdetection import EPOCH


def test_the_rules_of_mmdetection():
    here, there = presets.mmdet_r50_fpn(4), presets.detectron2_r50_fpn(4)
    assert here.model.limit_shrinking and not there.model.limit_shrinking
    assert here.model.rpn.low_quality == here.model.roi.low_quality == "assign"
    assert here.model.roi.level_rule == here.data.size_rule == "mmdetection"
    assert here.data.resize == "opencv" and not here.detection.clip_to_original
    assert here.model.box_head == there.model.box_head  # The layers are the same.
    assert here.model.fpn == there.model.fpn and here.model.mask_head == there.model.mask_head


@pytest.mark.parametrize(
    "name, groups, width",
    [
        ("mmdet_x101_32x4d_fpn", 32, 4),
        ("mmdet_x101_64x4d_fpn", 64, 4),
        ("mmdet_x101_32x8d_fpn", 32, 8),
    ],
)
def test_resnexts(name, groups, width):
    backbone = presets.OF_OTHERS[name]().model.backbone
    assert (backbone.depth, backbone.groups, backbone.width_per_group) == (101, groups, width)


def test_epochs_are_steps():
    config = presets.mmdet_r50_fpn_gn()
    assert config.num_steps == 24 * EPOCH and config.batch_size == 16
    assert config.optimizer.decay_steps == (16 * EPOCH, 22 * EPOCH)


def test_the_stages_of_a_cascade_vote_by_their_logits():
    model = presets.mmdet_cascade_r50_fpn(4).model
    assert (model.cascade.average, model.cascade.mask_heads) == ("logits", "each")
    assert model.box_head.class_agnostic and model.roi.low_quality == "none"
    assert model.cascade.box_weights[1] == pytest.approx(
        (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067)
    )
