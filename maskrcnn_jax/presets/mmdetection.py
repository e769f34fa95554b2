"""Networks of MMDetection's model zoo, with its rules and its schedules on COCO."""

from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.model_config import CascadeConfig
from maskrcnn_jax.presets.detectron2 import (
    COCO_80_CLASSES,
    detectron2_r50_fpn,
    use_c4,
    use_cascade,
    use_norm,
)
from maskrcnn_jax.presets.pixels import CAFFE_MEAN, CAFFE_STD, use_torchvision_input

EPOCH = 7330  # Steps of 16 images: the images of COCO's train2017 that have objects.


def mmdet_r50_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r50_fpn_1x_coco``; ``num_classes`` includes background."""
    config = detectron2_r50_fpn(num_classes)
    rpn, roi = config.model.rpn, config.model.roi
    config.model.limit_shrinking = True
    config.model.backbone.norm = "fixed_batch"
    rpn.low_quality, rpn.min_low_quality_iou, rpn.loss_divisor = "assign", 0.3, "mmdetection"
    roi.low_quality, roi.min_low_quality_iou = "assign", 0.5
    roi.level_rule, roi.ground_truth, roi.mask_targets = "mmdetection", "first", "mmdetection"
    use_torchvision_input(config.model)
    config.detection.clip_to_original = False
    config.data.size_rule, config.data.resize = "mmdetection", "opencv"
    config.data.short_sides, config.data.min_side = (800,), 32
    # The rate reaches its peak with the 500th step.
    config.optimizer = OptimizerConfig(warmup_steps=499)
    _set_epochs(config, 12, (8, 11))
    return config


def mmdet_r101_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r101_fpn_1x_coco``; ``num_classes`` includes background."""
    config = mmdet_r50_fpn(num_classes)
    config.model.backbone.depth = 101
    return config


def mmdet_x101_32x4d_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_x101-32x4d_fpn_1x_coco``; ``num_classes`` includes background."""
    config = mmdet_r101_fpn(num_classes)
    config.model.backbone.groups, config.model.backbone.width_per_group = 32, 4
    return config


def mmdet_x101_64x4d_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_x101-64x4d_fpn_1x_coco``; ``num_classes`` includes background."""
    config = mmdet_x101_32x4d_fpn(num_classes)
    config.model.backbone.groups = 64
    return config


def mmdet_x101_32x8d_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_x101-32x8d_fpn_1x_coco``; ``num_classes`` includes background."""
    config = mmdet_x101_32x4d_fpn(num_classes)
    config.model.backbone.width_per_group, config.model.backbone.norm = 8, "frozen_batch"
    return config


def mmdet_r50_caffe_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r50-caffe_fpn_1x_coco``, with a backbone that came from Caffe.

    ``num_classes`` includes background.
    """
    config = mmdet_r50_fpn(num_classes)
    config.model.image_mean, config.model.image_std = CAFFE_MEAN, CAFFE_STD
    config.model.backbone.stride_in_1x1, config.model.backbone.norm = True, "frozen_batch"
    return config


def mmdet_r50_fpn_gn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r50_fpn_gn-all_2x_coco``; ``num_classes`` includes background."""
    config = mmdet_r50_fpn(num_classes)
    config.model.image_mean, config.model.image_std = CAFFE_MEAN, CAFFE_STD
    use_norm(config.model, "group")
    _set_epochs(config, 24, (16, 22))
    return config


def mmdet_r50_caffe_c4(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r50-caffe-c4_1x_coco``; ``num_classes`` includes background."""
    config = mmdet_r50_caffe_fpn(num_classes)
    use_c4(config)
    config.model.roi.low_quality = "none"
    return config


def mmdet_cascade_r50_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``cascade-mask-rcnn_r50_fpn_1x_coco``; ``num_classes`` includes background."""
    config = mmdet_r50_fpn(num_classes)
    use_cascade_of_mmdetection(config)
    return config


def use_cascade_of_mmdetection(config: Config) -> None:
    """Makes a network of MMDetection a cascade of three stages."""
    use_cascade(config)
    model = config.model
    model.cascade = CascadeConfig(
        box_weights=((20.0, 20.0, 10.0, 10.0), (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067)),
        samples="drawn",
        average="logits",
        mask_heads="each",
        loss_weight=0.5,
        feature_gradient=1.0,
    )
    model.rpn.smooth_l1_beta, model.roi.smooth_l1_beta = 1 / 9, 1.0
    model.roi.low_quality = "none"


def _set_epochs(config: Config, num_epochs: int, decays: tuple[int, ...]) -> None:
    """Sets the length of a training of MMDetection, and when its learning rate is divided by 10."""
    config.num_steps = num_epochs * EPOCH
    config.optimizer.decay_steps = tuple(epoch * EPOCH for epoch in decays)
