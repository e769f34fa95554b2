"""A preset for a network whose arrays are known: by name, or with the layers of the arrays."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from maskrcnn_jax.config import Config
from maskrcnn_jax.model_config import BoxHeadConfig, ModelConfig, ResNetConfig, ViTConfig
from maskrcnn_jax.presets import detectron2, mmdetection

OF_OTHERS: dict[str, Callable[..., Config]] = {
    build.__name__: build
    for build in (
        detectron2.detectron2_r50_fpn,
        detectron2.detectron2_r101_fpn,
        detectron2.detectron2_x101_32x8d_fpn,
        detectron2.detectron2_r50_fpn_gn,
        detectron2.detectron2_r50_fpn_syncbn,
        detectron2.detectron2_r50_fpn_lsj,
        detectron2.detectron2_vitdet_b,
        detectron2.detectron2_vitdet_l,
        detectron2.detectron2_cascade_r50_fpn,
        detectron2.detectron2_r50_c4,
        detectron2.detectron2_r50_dc5,
        mmdetection.mmdet_r50_fpn,
        mmdetection.mmdet_r101_fpn,
        mmdetection.mmdet_x101_32x4d_fpn,
        mmdetection.mmdet_x101_64x4d_fpn,
        mmdetection.mmdet_x101_32x8d_fpn,
        mmdetection.mmdet_r50_caffe_fpn,
        mmdetection.mmdet_r50_fpn_gn,
        mmdetection.mmdet_cascade_r50_fpn,
        mmdetection.mmdet_r50_caffe_c4,
    )
}


def applied(preset: str | Config, config: Config) -> Config:
    """Returns a preset, or one of `OF_OTHERS`, with the layers and the classes of a config."""
    chosen = OF_OTHERS[preset]() if isinstance(preset, str) else copy.deepcopy(preset)
    model, backbone = config.model, chosen.model.backbone
    chosen.model.num_classes = model.num_classes
    if type(backbone) is not type(model.backbone):
        raise ValueError(f"the preset has a {type(backbone).__name__}, the file another backbone")
    chosen.model.backbone = dataclasses.replace(
        model.backbone, **_not_in_arrays(chosen.model, model)
    )
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


def _not_in_arrays(preset: ModelConfig, model: ModelConfig) -> dict[str, Any]:
    """The fields of a preset's backbone that no array of a file tells."""
    backbone = preset.backbone
    found: dict[str, Any] = {"frozen_stages": backbone.frozen_stages}
    if isinstance(backbone, ViTConfig):
        return found | {"drop_path": backbone.drop_path}
    # Arrays do not tell whether scale and bias train.
    is_of_preset = {backbone.norm, model.backbone.norm} <= {"frozen_batch", "fixed_batch"}
    found["norm"] = backbone.norm if is_of_preset else model.backbone.norm
    if preset.fpn is None and model.fpn is None:
        found["c5_dilation"] = backbone.c5_dilation
    return found | {"stride_in_1x1": backbone.stride_in_1x1}


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
