"""Configs of networks with a name.

Those that torchvision builds have the names of its functions and are a `ModelConfig`. Those of
Detectron2 and MMDetection are a whole `Config`: their rules for resizing images, for masks and for
the final boxes belong to the model, detection and data settings, and their schedules are those of a
training on COCO.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from maskrcnn_jax.config import (
    BoxHeadConfig,
    CascadeConfig,
    Config,
    ConvNeXtConfig,
    DataConfig,
    DetectionConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    OptimizerConfig,
    ResNetConfig,
    RoIConfig,
    RPNConfig,
    ViTConfig,
)

COCO_CLASSES = 91  # Outputs of torchvision's COCO weights: background and category ids 1 to 90.
COCO_80_CLASSES = 81  # Of the other libraries: background and COCO's 80 categories.

# Pixels from 0 to 255 less their mean, in the order RGB: what backbones of Caffe learned with.
CAFFE_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
LARGEST_STD_OF_CAFFE = 2 / 255

MMDETECTION_EPOCH = 7330  # Steps of 16 images: the images of COCO's train2017 that have objects.


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


def maskrcnn_convnext_tiny_fpn(num_classes: int = COCO_CLASSES) -> ModelConfig:
    """Mask R-CNN with torchvision's ConvNeXt-T and a pyramid; ``num_classes`` includes background.

    torchvision has the backbone and its ImageNet weights, and no function for the detector.
    """
    return ModelConfig(num_classes=num_classes, backbone=ConvNeXtConfig())


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
    _use_norm(config.model, "group")
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


OF_OTHERS: dict[str, Callable[..., Config]] = {
    build.__name__: build
    for build in (
        detectron2_r50_fpn,
        detectron2_r101_fpn,
        detectron2_x101_32x8d_fpn,
        detectron2_r50_fpn_gn,
        detectron2_r50_fpn_syncbn,
        detectron2_r50_fpn_lsj,
        detectron2_vitdet_b,
        detectron2_vitdet_l,
        detectron2_cascade_r50_fpn,
        detectron2_r50_c4,
        detectron2_r50_dc5,
        mmdet_r50_fpn,
        mmdet_r101_fpn,
        mmdet_x101_32x4d_fpn,
        mmdet_x101_64x4d_fpn,
        mmdet_x101_32x8d_fpn,
        mmdet_r50_caffe_fpn,
        mmdet_r50_fpn_gn,
        mmdet_cascade_r50_fpn,
        mmdet_r50_caffe_c4,
    )
}


def applied(preset: str | Config, config: Config) -> Config:
    """Returns a preset, or one of `OF_OTHERS`, with the layers and the classes of a config."""
    chosen = OF_OTHERS[preset]() if isinstance(preset, str) else copy.deepcopy(preset)
    model, backbone = config.model, chosen.model.backbone
    chosen.model.num_classes = model.num_classes
    if type(backbone) is not type(model.backbone):
        raise ValueError(f"the preset has a {type(backbone).__name__}, the file another backbone")
    chosen.model.backbone = dataclasses.replace(model.backbone, **_not_in_arrays(backbone, model))
    chosen.model.rpn.num_convs = model.rpn.num_convs
    box_head, mask_head = chosen.model.box_head, chosen.model.mask_head
    chosen.model.fpn = model.fpn
    chosen.model.box_head = _with_classifier(model.box_head, box_head)
    chosen.model.mask_head = copy.copy(model.mask_head)
    if box_head.res5 == model.box_head.res5:  # Arrays do not tell the side of pooled features.
        chosen.model.box_head.resolution = box_head.resolution
        if mask_head is not None and chosen.model.mask_head is not None:
            chosen.model.mask_head.resolution = mask_head.resolution
    chosen.model.cascade = model.cascade and (chosen.model.cascade or model.cascade)
    return chosen


def _not_in_arrays(preset: ResNetConfig | ViTConfig, model: ModelConfig) -> dict[str, Any]:
    """The fields of a preset's backbone that no array of a file tells."""
    found: dict[str, Any] = {"frozen_stages": preset.frozen_stages}
    if isinstance(preset, ViTConfig):
        return found | {"drop_path": preset.drop_path}
    # Arrays do not tell whether scale and bias train.
    is_of_preset = {preset.norm, model.backbone.norm} <= {"frozen_batch", "fixed_batch"}
    found["norm"] = preset.norm if is_of_preset else model.backbone.norm
    return found | {"stride_in_1x1": preset.stride_in_1x1}


def _with_classifier(head: BoxHeadConfig, preset: BoxHeadConfig) -> BoxHeadConfig:
    """A box head with the classifier of a preset; arrays show the frequencies of classes alone."""
    head = copy.deepcopy(head)
    if preset.classifier != "softmax":
        head.classifier = preset.classifier
    if preset.federated_classes is not None:
        head.federated_classes = preset.federated_classes
    if not head.class_frequencies:
        head.federated_power = preset.federated_power
    return head


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


def name_of(model: ModelConfig) -> str | None:
    """The name of the preset of `OF_OTHERS` with the layers of a network, of any width; or None."""
    kinds = {name: _kind(build().model) for name, build in OF_OTHERS.items()}
    return next((name for name, kind in kinds.items() if kind == _kind(model)), None)


def _kind(model: ModelConfig) -> tuple[object, ...]:
    """The settings in which presets of two kinds of network differ."""
    backbone, head = model.backbone, model.box_head
    names: tuple[str, ...] = "depth", "groups", "width_per_group", "last_level", "c5_dilation"
    if not isinstance(backbone, ResNetConfig):
        names = ("depth",) if isinstance(backbone, ViTConfig) else ("depths", "width")
    sizes = type(backbone), *(getattr(backbone, name) for name in names)
    layers = head.res5, head.num_convs, head.norm, model.mask_head is None, model.cascade
    return sizes, model.fpn and model.fpn.norm, layers, model.roi.level_rule


def use_torchvision_input(model: ModelConfig) -> None:
    """Sets the pixel statistics and the place of the stride to those of torchvision's ResNets."""
    model.image_mean = (123.675 / 255, 116.28 / 255, 103.53 / 255)
    model.image_std = (58.395 / 255, 57.12 / 255, 57.375 / 255)
    model.backbone.stride_in_1x1 = False


def _set_epochs(config: Config, num_epochs: int, decays: tuple[int, ...]) -> None:
    """Sets the length of a training of MMDetection, and when its learning rate is divided by 10."""
    config.num_steps = num_epochs * MMDETECTION_EPOCH
    config.optimizer.decay_steps = tuple(epoch * MMDETECTION_EPOCH for epoch in decays)


def is_of_caffe(model: ModelConfig) -> bool:
    """Tells whether pixels keep their scale of 0 to 255; such networks read them as BGR."""
    return max(model.image_std) < LARGEST_STD_OF_CAFFE


def reads_bgr(model: ModelConfig) -> bool:
    """Tells whether Detectron2 and MMDetection give such a network its channels as BGR.

    They do if it came from Caffe, and for FAIR's ResNeXt-101 32x8d, which divided its pixels.
    """
    return is_of_caffe(model) or is_of_fair(model.backbone)


def is_of_fair(backbone: ResNetConfig | ViTConfig) -> bool:
    """Tells whether a backbone is the ResNeXt-101 32x8d, which FAIR released as X-101-32x8d.pkl."""
    if not isinstance(backbone, ResNetConfig):
        return False
    return (backbone.depth, backbone.groups, backbone.width_per_group) == (101, 32, 8)


def _use_norm(model: ModelConfig, norm: str) -> None:
    """Puts a norm after all convolutions but the RPN's, and four of them into the box head."""
    model.backbone.norm = norm
    if model.fpn is not None:
        model.fpn.norm = norm
    if model.mask_head is not None:
        model.mask_head.norm = norm
    model.box_head = BoxHeadConfig(num_convs=4, norm=norm, num_layers=1)
