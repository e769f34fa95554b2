"""Networks of Detectron2's model zoo, with its rules and its schedules on COCO."""

from typing import Any

from maskrcnn_jax.config import Config, DataConfig, DetectionConfig, OptimizerConfig
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    CascadeConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RoIConfig,
    RPNConfig,
    ViTConfig,
)
from maskrcnn_jax.presets.pixels import CAFFE_MEAN, CAFFE_STD, use_torchvision_input

COCO_80_CLASSES = 81  # Of weights of Detectron2 and MMDetection: background and 80 categories.


def detectron2_r50_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_FPN_3x``; ``num_classes`` includes background."""
    model = ModelConfig(
        num_classes=num_classes,
        image_mean=CAFFE_MEAN,
        image_std=CAFFE_STD,
        backbone=ResNetConfig(stride_in_1x1=True),
        rpn=RPNConfig(
            round_anchors=False,
            anchor_stride="level",
            smooth_l1_beta=0.0,
            loss_divisor="fixed",
            num_proposals=1000,
            min_box_size=0.0,
        ),
        roi=RoIConfig(
            aligned=True,
            sampling_ratio=0,
            smooth_l1_beta=0.0,
            level_rule="detectron2",
            mask_targets="detectron2",
        ),
    )
    detection = DetectionConfig(min_box_size=0.0, clip_to_original=True, paste="centres")
    data = DataConfig(
        keep_rule="any",
        size_rule="detectron2",
        resize="pillow",
        short_sides=(640, 672, 704, 736, 768, 800),
    )
    optimizer = OptimizerConfig(decay="not_norms", decay_steps=(210_000, 250_000))
    return Config(
        model=model, num_steps=270_000, detection=detection, data=data, optimizer=optimizer
    )


def detectron2_r101_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_101_FPN_3x``; ``num_classes`` includes background."""
    config = detectron2_r50_fpn(num_classes)
    config.model.backbone.depth = 101
    return config


def detectron2_r50_fpn_gn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_FPN_3x_gn``: group norm everywhere, a box head of 4 + 1 layers.

    ``num_classes`` includes background.
    """
    config = detectron2_r50_fpn(num_classes)
    config.model.backbone.stride_in_1x1 = False
    use_norm(config.model, "group")
    return config


def detectron2_r50_fpn_syncbn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_FPN_3x_syncbn``: as ``_gn``, with trained batch norm.

    ``num_classes`` includes background.
    """
    config = detectron2_r50_fpn(num_classes)
    use_norm(config.model, "batch")
    return config


def detectron2_r50_fpn_lsj(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_FPN_100ep_LSJ``: as ``_syncbn``, trained from random weights.

    Images are jittered in scale. ``num_classes`` includes background.
    """
    config = detectron2_r50_fpn_syncbn(num_classes)
    config.model.backbone.frozen_stages = 0
    config.model.rpn.num_convs = 2
    config.data.jitter, config.data.buckets = (0.1, 2.0), ((1024, 1024),)
    config.batch_size, config.num_steps = 64, 184_375
    config.optimizer = OptimizerConfig(
        learning_rate=0.025,  # For 16 images.
        weight_decay=4e-5,
        decay="not_norms",
        warmup_steps=500,
        warmup_factor=0.067,
        decay_steps=(163_889, 177_546),
    )
    return config


def detectron2_cascade_r50_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``cascade_mask_rcnn_R_50_FPN_3x``; ``num_classes`` includes background."""
    config = detectron2_r50_fpn(num_classes)
    use_cascade(config)
    return config


def detectron2_x101_32x8d_fpn(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_X_101_32x8d_FPN_3x``; ``num_classes`` includes background."""
    config = detectron2_r101_fpn(num_classes)
    use_torchvision_input(config.model)
    config.model.backbone.groups, config.model.backbone.width_per_group = 32, 8
    return config


def detectron2_vitdet_b(num_classes: int = COCO_80_CLASSES) -> Config:
    """``mask_rcnn_vitdet_b_100ep`` of Detectron2's project ViTDet.

    ``num_classes`` includes background. Images are padded to 1024x1024.
    """
    config = detectron2_r50_fpn_lsj(num_classes)
    model, side = config.model, 1024
    model.image_mean = (123.675 / 255, 116.28 / 255, 103.53 / 255)
    model.image_std = (58.395 / 255, 57.12 / 255, 57.375 / 255)
    model.backbone = ViTConfig(image_side=side)
    model.fpn = FPNConfig(top_down=False, norm="layer", norm_eps=1e-6)
    norm: dict[str, Any] = {"norm": "layer", "norm_eps": 1e-6}
    model.box_head = BoxHeadConfig(num_convs=4, num_layers=1, **norm)
    model.mask_head = MaskHeadConfig(**norm)
    config.data.test_short_side = config.data.test_max_long_side = side
    config.data.test_buckets = ((side, side),)
    config.execution.rematerialise = True
    config.optimizer = OptimizerConfig(
        name="adamw",
        learning_rate=0.25e-4,  # For 16 images.
        weight_decay=0.1,
        decay="not_norms",
        layer_decay=0.7,
        warmup_steps=250,
        decay_steps=(163_889, 177_546),
    )
    return config


def detectron2_vitdet_l(num_classes: int = COCO_80_CLASSES) -> Config:
    """``mask_rcnn_vitdet_l_100ep`` of the same project; ``num_classes`` includes background."""
    config = detectron2_vitdet_b(num_classes)
    config.model.backbone = ViTConfig(
        width=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23), drop_path=0.4
    )
    config.optimizer.layer_decay = 0.8
    return config


def detectron2_r50_c4(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_C4_3x``; ``num_classes`` includes background."""
    config = detectron2_r50_fpn(num_classes)
    use_c4(config)
    config.data.padding = 1
    return config


def detectron2_r50_dc5(num_classes: int = COCO_80_CLASSES) -> Config:
    """Detectron2's ``mask_rcnn_R_50_DC5_3x``; ``num_classes`` includes background."""
    config = detectron2_r50_fpn(num_classes)
    use_dc5(config)
    config.data.padding = 1
    return config


def use_c4(config: Config) -> None:
    """Takes the pyramid from a network, and puts the last stage of its ResNet into its heads."""
    model = config.model
    model.fpn, model.backbone.last_level = None, 4
    model.box_head = BoxHeadConfig(res5=True, resolution=14, num_layers=0)
    if model.mask_head is not None:
        model.mask_head = MaskHeadConfig(resolution=7, num_convs=0)
    _take_proposals_of_one_map(config)


def use_dc5(config: Config) -> None:
    """Takes the pyramid from a network, and dilates the last stage of its ResNet."""
    config.model.fpn, config.model.backbone.c5_dilation = None, 2
    _take_proposals_of_one_map(config)


def _take_proposals_of_one_map(config: Config) -> None:
    """Sets the numbers of proposals of Detectron2's networks without a pyramid."""
    config.model.rpn.num_candidates, config.model.rpn.num_proposals = 12_000, 2000
    config.detection.num_candidates = 6000


def use_cascade(config: Config) -> None:
    """Makes a network of Detectron2 a cascade of three stages."""
    config.model.cascade = CascadeConfig()
    config.model.box_head.class_agnostic = True
    config.model.rpn.num_proposals = 2000


def use_norm(model: ModelConfig, norm: str) -> None:
    """Puts a norm after all convolutions but the RPN's, and four of them into the box head."""
    model.backbone.norm = norm
    if model.fpn is not None:
        model.fpn.norm = norm
    if model.mask_head is not None:
        model.mask_head.norm = norm
    model.box_head = BoxHeadConfig(num_convs=4, norm=norm, num_layers=1)
