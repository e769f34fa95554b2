"""The networks that torchvision builds, by the names of its functions."""

from collections.abc import Callable

from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    ConvNeXtConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RPNConfig,
)

COCO_CLASSES = 91  # Outputs of torchvision's COCO weights: background and category ids 1 to 90.


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
