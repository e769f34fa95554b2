"""Presets of other libraries: possible settings, their trained parameters, their schedules."""

from math import prod

import pytest

from maskrcnn_jax import config_check, presets
from maskrcnn_jax.modules import backbones
from maskrcnn_jax.weights import detectron2, mmdetection


@pytest.mark.parametrize("build", presets.OF_OTHERS.values(), ids=presets.OF_OTHERS)
def test_presets_are_possible(build):
    config_check.check(build(num_classes=3))


@pytest.mark.parametrize(
    "family, preset, count",
    [
        (detectron2, "detectron2_r50_fpn", 44_120_816),
        (detectron2, "detectron2_r101_fpn", 63_060_720),
        (detectron2, "detectron2_x101_32x8d_fpn", 107_002_608),
        (detectron2, "detectron2_r50_fpn_gn", 45_485_808),
        (detectron2, "detectron2_r50_fpn_syncbn", 45_485_808),
        (detectron2, "detectron2_r50_fpn_lsj", 46_301_232),
        (detectron2, "detectron2_cascade_r50_fpn", 71_762_526),
        (detectron2, "detectron2_r50_c4", 35_687_212),
        (detectron2, "detectron2_r50_dc5", 172_131_116),
        (mmdetection, "mmdet_r50_fpn", 44_170_992),
        (mmdetection, "mmdet_r101_fpn", 63_163_120),
        (mmdetection, "mmdet_x101_32x4d_fpn", 62_801_648),
        (mmdetection, "mmdet_x101_32x8d_fpn", 107_002_608),
        (mmdetection, "mmdet_r50_caffe_fpn", 44_120_816),
        (mmdetection, "mmdet_r50_fpn_gn", 45_485_808),
        (mmdetection, "mmdet_cascade_r50_fpn", 77_099_262),
        (mmdetection, "mmdet_r50_caffe_c4", 35_687_212),
    ],
)
def test_as_many_numbers_train_as_in_the_library(family, preset, count):
    """The counts are those of the libraries' models of the same names."""
    model = presets.OF_OTHERS[preset]().model
    trained = 0
    for entry in family.entries(model):
        collection, part, layer = entry.path[:3]
        is_frozen = part == "backbone" and backbones.is_frozen(model.backbone, layer)
        trained += prod(entry.shape) if collection == "params" and not is_frozen else 0
    assert trained == count


@pytest.mark.parametrize(
    "preset, num_steps, decay_steps, warmup",
    [
        ("detectron2_r50_fpn", 270_000, (210_000, 250_000), (1000, 0.001)),
        ("detectron2_r50_fpn_lsj", 184_375, (163_889, 177_546), (500, 0.067)),
        ("mmdet_r50_fpn", 12 * 7330, (8 * 7330, 11 * 7330), (499, 0.001)),
        ("mmdet_r50_fpn_gn", 24 * 7330, (16 * 7330, 22 * 7330), (499, 0.001)),
    ],
)
def test_schedules(preset, num_steps, decay_steps, warmup):
    config = presets.OF_OTHERS[preset]()
    optimizer = config.optimizer
    assert (config.num_steps, optimizer.decay_steps) == (num_steps, decay_steps)
    assert (optimizer.warmup_steps, optimizer.warmup_factor) == warmup
    peak = optimizer.learning_rate * config.batch_size / 16
    assert peak == pytest.approx(0.1 if preset.endswith("lsj") else 0.02)
