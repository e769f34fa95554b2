"""Checks that the fields of a config fit together.

The range of a single field stands beside the field in `config`.
"""

from collections.abc import Sequence

from maskrcnn_jax import settings
from maskrcnn_jax.config import Config, DataConfig
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig, ViTConfig

_NUM_GROUPS = 32  # Group norm has a fixed number of groups.


def check(config: Config) -> None:
    """Raises ValueError with the field, its value and the allowed values if a field is wrong."""
    settings.check_fields(config)
    _check_network(config.model)
    if isinstance(config.model.backbone, ViTConfig):
        _check_squares(config.data, config.model.backbone.image_side)
    if config.data.train and config.data.source == "shapes":
        raise ValueError('data.train needs data.source "coco" or "tfds" for the validation set')
    num_channels = len(config.model.image_mean)
    _check_shown(config.data.shown_channels, num_channels)
    _check_augmentation(config.data, num_channels)


def _check_augmentation(data: DataConfig, num_channels: int) -> None:
    for name in ("jitter", "crop_fraction", "brightness", "contrast", "saturation", "hue"):
        given, may_be_empty = tuple(getattr(data, name)), name in ("jitter", "crop_fraction")
        is_range = len(given) == 2 and given[0] <= given[1]
        if not is_range and (given or not may_be_empty):
            expected = f"{'empty or ' * may_be_empty}two ascending numbers"
            raise ValueError(f"data.{name} must be {expected}; got {given}")
    if len(data.jitter_fill) not in (1, num_channels):
        raise ValueError(
            f"data.jitter_fill must be one number, or {num_channels}, one for each channel; "
            f"got {tuple(data.jitter_fill)}"
        )
    if data.quarter_turn and not data.jitter and any(h != w for h, w in data.buckets):
        raise ValueError(
            "data.buckets must be squares, which hold a turned image too, since data.quarter_turn "
            f"is {data.quarter_turn} and data.jitter is empty; got {tuple(data.buckets)}"
        )


def _check_squares(data: DataConfig, side: int) -> None:
    for name in ("buckets", "test_buckets"):
        buckets = tuple(tuple(bucket) for bucket in getattr(data, name))
        if buckets != ((side, side),):
            raise ValueError(
                f"data.{name} must be (({side}, {side}),), the square of "
                f"model.backbone.image_side; got {buckets}"
            )
    if max(data.test_short_side, data.test_max_long_side) > side:
        raise ValueError(
            "data.test_short_side and data.test_max_long_side must be at most "
            f"model.backbone.image_side, {side}; got {data.test_short_side} and "
            f"{data.test_max_long_side}"
        )


def _check_shown(shown: Sequence[int], num_channels: int) -> None:
    if len(shown) not in (0, 1, 3) or max(shown, default=0) >= num_channels:
        raise ValueError(
            f"data.shown_channels must be empty, one or three channels from 0 to "
            f"{num_channels - 1}, as model.image_mean has {num_channels} numbers; got {shown}"
        )


def _check_network(model: ModelConfig) -> None:
    if model.fpn is not None and len(model.rpn.anchor_sizes) != 5:
        raise ValueError(
            f"model.rpn.anchor_sizes must be five, for P2 to P6; got {model.rpn.anchor_sizes}"
        )
    if len(model.image_mean) != len(model.image_std):
        raise ValueError(
            "model.image_mean and model.image_std must have a number for each channel; "
            f"got {model.image_mean} and {model.image_std}"
        )
    for name, stage in (("model.rpn", model.rpn), ("model.roi", model.roi)):
        if int(stage.num_samples * stage.positive_fraction) < 1:
            raise ValueError(
                f"{name}.num_samples times {name}.positive_fraction must be at least 1, or nothing "
                f"positive is sampled; got {stage.num_samples} times {stage.positive_fraction}"
            )
    _check_cascade(model)
    _check_federated(model)
    if isinstance(model.backbone, ResNetConfig):
        _check_resnet(model.backbone)
        _check_res5(model)
    elif model.box_head.res5:
        raise ValueError("model.box_head.res5 needs a ResNet as model.backbone")
    if isinstance(model.backbone, ViTConfig):
        _check_vit(model.backbone)
    _check_groups("backbone", model.backbone, "stem_channels")
    if model.fpn is not None:
        _check_groups("fpn", model.fpn, "channels")
    for name in ("box_head", "mask_head"):
        head = getattr(model, name)
        if head is not None and head.num_convs > 0:
            _check_groups(name, head, "channels")


def _check_vit(backbone: ViTConfig) -> None:
    if backbone.width % (4 * backbone.num_heads):
        raise ValueError(
            "model.backbone.width must be a multiple of 4 times model.backbone.num_heads; got "
            f"{backbone.width} and {backbone.num_heads}"
        )
    if max(backbone.global_blocks, default=0) >= max(backbone.depth, 1):
        raise ValueError(
            f"model.backbone.global_blocks must be below model.backbone.depth, {backbone.depth}; "
            f"got {backbone.global_blocks}"
        )


def _check_resnet(backbone: ResNetConfig) -> None:
    if backbone.groups > 1 and backbone.depth < 50:
        raise ValueError(
            "model.backbone.groups must be 1 for a depth of 18 or 34, which have no bottlenecks; "
            f"got {backbone.groups}"
        )
    if backbone.stem_channels * backbone.width_per_group % 64:
        raise ValueError(
            "model.backbone.width_per_group times model.backbone.stem_channels must be a multiple "
            f"of 64; got {backbone.width_per_group} times {backbone.stem_channels}"
        )
    if backbone.c5_dilation > 1 and (backbone.depth < 50 or backbone.last_level < 5):
        raise ValueError(
            "model.backbone.c5_dilation must be 1 for a depth of 18 or 34, which have no "
            "bottlenecks, and for model.backbone.last_level 4, which has no C5; got "
            f"{backbone.c5_dilation} with {backbone.depth} and {backbone.last_level}"
        )


def _check_res5(model: ModelConfig) -> None:
    """Raises ValueError if the stages of a ResNet and the heads of a C4 network do not fit."""
    head, backbone, masks = model.box_head, model.backbone, model.mask_head
    if backbone.last_level < 5 and model.fpn is not None:
        raise ValueError(
            "model.backbone.last_level must be 5 with model.fpn; got "
            f"{backbone.last_level}, and model.fpn=None has no pyramid"
        )
    if backbone.c5_dilation > 1 and model.fpn is not None:
        raise ValueError(
            "model.backbone.c5_dilation must be 1 with model.fpn, whose levels have half the "
            f"resolution of the level before; got {backbone.c5_dilation}"
        )
    if not head.res5:
        return
    if backbone.last_level != 4 or backbone.depth < 50:
        raise ValueError(
            "model.box_head.res5 needs model.backbone.last_level 4 and a depth of at least 50; "
            f"got {backbone.last_level} and {backbone.depth}"
        )
    if model.cascade is not None or head.num_convs or head.num_layers:
        raise ValueError(
            "model.box_head.res5 needs model.cascade=None, model.box_head.num_convs=0 and "
            "model.box_head.num_layers=0"
        )
    if masks is not None and 2 * masks.resolution != head.resolution:
        raise ValueError(
            "model.mask_head.resolution must be half of model.box_head.resolution with "
            f"model.box_head.res5; got {masks.resolution} and {head.resolution}"
        )


def _check_cascade(model: ModelConfig) -> None:
    cascade = model.cascade
    if cascade is None:
        return
    if len(cascade.positive_ious) != len(cascade.box_weights):
        raise ValueError(
            "model.cascade.positive_ious and model.cascade.box_weights must have as many members, "
            f"one for each stage after the first; got {len(cascade.positive_ious)} and "
            f"{len(cascade.box_weights)}"
        )
    if not model.box_head.class_agnostic:
        raise ValueError(
            "model.box_head.class_agnostic must be True with model.cascade: a stage passes one box "
            "for each RoI to the next"
        )
    if cascade.mask_heads == "each" and cascade.samples == "all":
        raise ValueError(
            'model.cascade.samples must be "drawn" with model.cascade.mask_heads "each", since the '
            'mask head of a stage learns from samples with the positive ones in front; got "all"'
        )


def _check_federated(model: ModelConfig) -> None:
    head = model.box_head
    if head.federated_classes is not None and head.classifier != "sigmoid":
        raise ValueError(
            'model.box_head.federated_classes needs model.box_head.classifier "sigmoid"; '
            f"got {head.federated_classes} with {head.classifier!r}"
        )
    count, expected = len(head.class_frequencies), model.num_classes - 1
    if count not in (0, expected):
        raise ValueError(
            "model.box_head.class_frequencies must be empty or have a number for each of the "
            f"{expected} classes of model.num_classes without background; got {count} numbers"
        )


def _check_groups(name: str, part: object, width: str) -> None:
    """Raises ValueError if the groups of a group norm do not divide the channels of a part."""
    if getattr(part, "norm", None) == "group" and getattr(part, width) % _NUM_GROUPS:
        raise ValueError(
            f"model.{name}.{width} must be a multiple of {_NUM_GROUPS}, since model.{name}.norm is "
            f'"group"; got {getattr(part, width)}'
        )
