"""Configs of networks with a name.

Those that torchvision builds have the names of its functions and are a `ModelConfig`. Those of
Detectron2 and MMDetection are a whole `Config`: their rules for resizing images, for masks and for
the final boxes belong to the model, detection and data settings. The schedule of a training is not
set.
"""

import copy
import dataclasses
from collections.abc import Callable

from maskrcnn_jax.config import (
    BoxHeadConfig,
    Config,
    DataConfig,
    DetectionConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RoIConfig,
    RPNConfig,
)

COCO_CLASSES = 91  # Outputs of torchvision's COCO weights: background and category ids 1 to 90.
COCO_80_CLASSES = 81  # Of the other libraries: background and COCO's 80 categories.

# Pixels from 0 to 255 less their mean, in the order RGB: what backbones of Caffe learned with.
CAFFE_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
LARGEST_STD_OF_CAFFE = 2 / 255


def maskrcnn_resnet50_fpn(
    num_classes: int = COCO_CLASSES, norm: str = "frozen_batch"
) -> ModelConfig:
    """Mask R-CNN with a ResNet-50-FPN backbone (He et al., 2017).

    Args:
        num_classes: Number of classes, including background.
        norm: The norm of the backbone: "frozen_batch", "batch" or "group".
    """
    return ModelConfig(num_classes=num_classes, backbone=ResNetConfig(norm=norm))


def maskrcnn_resnet50_fpn_v2(num_classes: int = COCO_CLASSES) -> ModelConfig:
    """The second version: trained batch norm, and heads with more convolutions (Li et al., 2021).

    ``num_classes`` includes background.
    """
    return ModelConfig(
        num_classes=num_classes,
        backbone=ResNetConfig(norm="batch"),
        fpn=FPNConfig(norm="batch"),
        rpn=RPNConfig(num_convs=2),
        box_head=BoxHeadConfig(num_convs=4, norm="batch", num_layers=1),
        mask_head=MaskHeadConfig(norm="batch"),
    )


def fasterrcnn_resnet50_fpn(
    num_classes: int = COCO_CLASSES, norm: str = "frozen_batch"
) -> ModelConfig:
    """Faster R-CNN with a ResNet-50-FPN backbone (Ren et al., 2015): no mask head.

    Arguments as in `maskrcnn_resnet50_fpn`.
    """
    config = maskrcnn_resnet50_fpn(num_classes, norm)
    config.mask_head = None
    return config


def fasterrcnn_resnet50_fpn_v2(num_classes: int = COCO_CLASSES) -> ModelConfig:
    """The second version of Faster R-CNN (Li et al., 2021); ``num_classes`` includes background."""
    config = maskrcnn_resnet50_fpn_v2(num_classes)
    config.mask_head = None
    return config


PRESETS: dict[str, Callable[..., ModelConfig]] = {
    build.__name__: build
    for build in (
        maskrcnn_resnet50_fpn,
        maskrcnn_resnet50_fpn_v2,
        fasterrcnn_resnet50_fpn,
        fasterrcnn_resnet50_fpn_v2,
    )
}


def detectron2_r50_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_FPN``; ``num_classes`` includes background."""
    model = ModelConfig(
        num_classes=num_classes,
        image_mean=CAFFE_MEAN,
        image_std=CAFFE_STD,
        backbone=ResNetConfig(stride_in_1x1=True),
        rpn=RPNConfig(
            round_anchors=False,
            anchor_stride="level",
            smooth_l1_beta=0.0,
            num_proposals=1000,
            min_box_size=0.0,
        ),
        roi=RoIConfig(aligned=True, sampling_ratio=0, smooth_l1_beta=0.0, level_rule="detectron2"),
    )
    detection = DetectionConfig(min_box_size=0.0, clip_to_original=True, paste="centres")
    data = DataConfig(
        size_rule="detectron2", resize="pillow", short_sides=(640, 672, 704, 736, 768, 800)
    )
    return Config(model=model, detection=detection, data=data)


def detectron2_r101_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_101_FPN``; ``num_classes`` includes background."""
    config = detectron2_r50_fpn(num_classes)
    config.model.backbone.depth = 101
    return config


def detectron2_r50_fpn_gn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_FPN_3x_gn``: group norm everywhere, a box head of 4 + 1 layers.

    ``num_classes`` includes background.
    """
    config = detectron2_r50_fpn(num_classes)
    config.model.backbone.stride_in_1x1 = False
    _use_norm(config.model, "group")
    return config


def detectron2_r50_fpn_syncbn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_FPN_3x_syncbn``: as ``_gn``, with trained batch norm.

    ``num_classes`` includes background.
    """
    config = detectron2_r50_fpn(num_classes)
    _use_norm(config.model, "batch")
    return config


def detectron2_r50_fpn_lsj(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_FPN_*ep_LSJ``: as ``_syncbn``, trained from random weights.

    The data settings are those of detection; large-scale jitter is not set. ``num_classes``
    includes background.
    """
    config = detectron2_r50_fpn_syncbn(num_classes)
    config.model.backbone.frozen_stages = 0
    config.model.rpn.num_convs = 2
    return config


def mmdet_r50_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r50_fpn``; ``num_classes`` includes background.

    Batch norm is frozen, as in detection. MMDetection trains its scales and biases.
    """
    config = detectron2_r50_fpn(num_classes)
    config.model.limit_shrinking = True
    config.model.roi.level_rule = "mmdetection"
    use_torchvision_input(config.model)
    config.detection.clip_to_original = False
    config.data.size_rule, config.data.resize = "mmdetection", "opencv"
    config.data.short_sides = (800,)
    return config


def mmdet_r101_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r101_fpn``; ``num_classes`` includes background."""
    config = mmdet_r50_fpn(num_classes)
    config.model.backbone.depth = 101
    return config


def mmdet_r50_caffe_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r50-caffe_fpn``, with a backbone that came from Caffe.

    ``num_classes`` includes background.
    """
    config = mmdet_r50_fpn(num_classes)
    config.model.image_mean, config.model.image_std = CAFFE_MEAN, CAFFE_STD
    config.model.backbone.stride_in_1x1 = True
    return config


def mmdet_r50_fpn_gn(num_classes: int = COCO_80_CLASSES) -> Config:
    """MMDetection's ``mask-rcnn_r50_fpn_gn-all``; ``num_classes`` includes background."""
    config = mmdet_r50_fpn(num_classes)
    config.model.image_mean, config.model.image_std = CAFFE_MEAN, CAFFE_STD
    _use_norm(config.model, "group")
    return config


OF_OTHERS: dict[str, Callable[..., Config]] = {
    build.__name__: build
    for build in (
        detectron2_r50_fpn,
        detectron2_r101_fpn,
        detectron2_r50_fpn_gn,
        detectron2_r50_fpn_syncbn,
        detectron2_r50_fpn_lsj,
        mmdet_r50_fpn,
        mmdet_r101_fpn,
        mmdet_r50_caffe_fpn,
        mmdet_r50_fpn_gn,
    )
}


def applied(preset: str | Config, config: Config) -> Config:
    """Returns a preset, or one of `OF_OTHERS`, with the layers and the classes of a config."""
    chosen = OF_OTHERS[preset]() if isinstance(preset, str) else copy.deepcopy(preset)
    model = config.model
    chosen.model.num_classes = model.num_classes
    chosen.model.backbone = dataclasses.replace(
        model.backbone,
        stride_in_1x1=chosen.model.backbone.stride_in_1x1,
        frozen_stages=chosen.model.backbone.frozen_stages,
    )
    chosen.model.rpn.num_convs = model.rpn.num_convs
    chosen.model.fpn, chosen.model.box_head = model.fpn, model.box_head
    chosen.model.mask_head = model.mask_head
    return chosen


def use_torchvision_input(model: ModelConfig) -> None:
    """Sets the pixel statistics and the place of the stride to those of torchvision's backbones."""
    model.image_mean = (123.675 / 255, 116.28 / 255, 103.53 / 255)
    model.image_std = (58.395 / 255, 57.12 / 255, 57.375 / 255)
    model.backbone.stride_in_1x1 = False


def is_of_caffe(model: ModelConfig) -> bool:
    """Tells whether pixels keep their scale of 0 to 255; such networks read them as BGR."""
    return max(model.image_std) < LARGEST_STD_OF_CAFFE


def _use_norm(model: ModelConfig, norm: str) -> None:
    """Puts a norm after all convolutions but the RPN's, and four of them into the box head."""
    model.backbone.norm, model.fpn.norm, model.mask_head.norm = norm, norm, norm
    model.box_head = BoxHeadConfig(num_convs=4, norm=norm, num_layers=1)
