"""The rules in which a model differs from a config of another library, and how to set them there.

Only rules of detection are compared, not those of training.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.weights import peer_settings
from maskrcnn_jax.weights.detectron2_config import set_field
from maskrcnn_jax.weights.peer_settings import MASKS, ORDER, value_of

# Our presets by the names of the same networks there.
BASES: dict[str, dict[str, Callable[..., Any]]] = {
    "torchvision": presets.PRESETS
    | {"MaskRCNN on convnext_tiny": presets.maskrcnn_convnext_tiny_fpn},
    "detectron2": {
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml": presets.detectron2_r50_fpn,
        "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml": presets.detectron2_r101_fpn,
        "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml": (
            presets.detectron2_x101_32x8d_fpn
        ),
        "projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py": presets.detectron2_vitdet_b,
        "projects/ViTDet/configs/COCO/mask_rcnn_vitdet_l_100ep.py": presets.detectron2_vitdet_l,
        "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml": presets.detectron2_r50_fpn_gn,
        "Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml": presets.detectron2_r50_fpn_syncbn,
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml": presets.detectron2_r50_c4,
        "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x.yaml": presets.detectron2_r50_dc5,
        "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml": presets.detectron2_cascade_r50_fpn,
    },
    "mmdet": {
        "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py": presets.mmdet_r50_fpn,
        "mask_rcnn/mask-rcnn_r101_fpn_1x_coco.py": presets.mmdet_r101_fpn,
        "mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py": presets.mmdet_r50_caffe_fpn,
        "mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py": presets.mmdet_x101_32x4d_fpn,
        "mask_rcnn/mask-rcnn_x101-64x4d_fpn_1x_coco.py": presets.mmdet_x101_64x4d_fpn,
        "mask_rcnn/mask-rcnn_x101-32x8d_fpn_1x_coco.py": presets.mmdet_x101_32x8d_fpn,
        "mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py": presets.mmdet_r50_caffe_c4,
        "gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py": presets.mmdet_r50_fpn_gn,
        "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py": presets.mmdet_cascade_r50_fpn,
    },
}
SETTINGS: dict[str, Callable[[str, Config, bool], str | None]] = {
    "torchvision": peer_settings.torchvision,
    "detectron2": peer_settings.detectron2,
    "mmdet": peer_settings.mmdet,
}
PIXELS = ("model.image_mean", "model.image_std")
# The fields that are compared, and words for those whose paths do not say it.
FIELDS: dict[str, str] = {
    "data.size_rule": "size of resized images",
    "data.resize": "resizing",
    "data.padding": "padding of images",
    "data.test_short_side": "",
    "data.test_max_long_side": "",
    "model.image_mean": "mean of pixels",
    "model.image_std": "deviation of pixels",
    "model.backbone.depth": "",
    "model.backbone.stem_channels": "",
    "model.backbone.groups": "",
    "model.backbone.width_per_group": "",
    "model.backbone.c5_dilation": "",
    "model.backbone.stride_in_1x1": "stride in the 1x1 convolutions",
    "model.backbone.norm": "",
    "model.backbone.norm_eps": "",
    "model.backbone.depths": "",
    "model.backbone.image_side": "",
    "model.backbone.width": "",
    "model.backbone.num_heads": "",
    "model.backbone.window": "",
    "model.backbone.global_blocks": "",
    "model.fpn.top_down": "",
    "model.fpn.channels": "",
    "model.fpn.norm": "",
    "model.fpn.norm_eps": "",
    "model.rpn.num_convs": "",
    "model.rpn.anchor_sizes": "",
    "model.rpn.aspect_ratios": "",
    "model.rpn.round_anchors": "rounded anchors",
    "model.rpn.anchor_stride": "stride of anchors",
    "model.rpn.box_weights": "",
    "model.rpn.score_threshold": "",
    "model.rpn.nms_threshold": "",
    "model.rpn.min_box_size": "smallest proposal",
    "model.limit_shrinking": "limit of shrinking boxes",
    "model.roi.level_rule": "level of an RoI",
    "model.roi.pooling": "",
    "model.roi.sampling_ratio": "samples of RoIAlign",
    "model.roi.aligned": "RoIAlign aligned",
    "model.roi.box_weights": "",
    "model.box_head.resolution": "",
    "model.box_head.num_convs": "",
    "model.box_head.channels": "",
    "model.box_head.norm": "",
    "model.box_head.norm_eps": "",
    "model.box_head.num_layers": "",
    "model.box_head.features": "",
    "model.box_head.class_agnostic": "",
    "model.box_head.classifier": "probabilities of classes",
    "model.mask_head.resolution": "",
    "model.mask_head.num_convs": "",
    "model.mask_head.channels": "",
    "model.mask_head.norm": "",
    "model.mask_head.norm_eps": "",
    "model.mask_head.class_agnostic": "",
    "model.cascade.box_weights": "box weights of the later stages",
    "model.cascade.average": "average over the stages",
    "model.num_classes": "classes, with background",
    "detection.num_candidates": "",
    "detection.num_proposals": "",
    "detection.score_threshold": "",
    "detection.nms_threshold": "",
    "detection.num_detections": "",
    "detection.min_box_size": "smallest detection",
    "detection.clip_to_original": "final boxes clipped",
    "detection.paste": "pasting of masks",
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """A rule of the model that the nearest config of the library has otherwise."""

    rule: str  # A path of a field, or `ORDER` or `MASKS`.
    here: Any
    there: Any
    setting: str | None  # The code or the key that sets it there; None if nothing does.


def find(config: Config, target: str, is_bgr: bool) -> tuple[str, list[Difference]]:
    """Finds the nearest config of a library, and the differences from it.

    Args:
        config: The config of the model.
        target: A key of `BASES`.
        is_bgr: Whether the stem of the file reads BGR.

    Returns:
        A key of ``BASES[target]``, and the differences.
    """
    found = {}
    for name, build in BASES[target].items():
        base = build()
        base = base if isinstance(base, Config) else Config(model=base)
        if _kind(base) != _kind(config):
            continue
        reads_bgr = target != "torchvision" and presets.reads_bgr(base.model)
        found[name] = list(_rules(config, base, is_bgr, reads_bgr, SETTINGS[target]))
    nearest = min(found, key=lambda name: len(found[name]))
    return nearest, found[nearest]


def _kind(config: Config) -> tuple[object, ...]:
    """The parts that make a network one of another kind."""
    model = config.model
    return type(model.backbone), model.cascade is None, model.fpn is None, model.box_head.res5


def _rules(
    config: Config,
    base: Config,
    is_bgr: bool,
    reads_bgr: bool,
    setting: Callable[[str, Config, bool], str | None],
) -> Iterator[Difference]:
    has_masks = [x.model.mask_head is not None for x in (config, base)]
    orders = ["BGR" if x else "RGB" for x in (is_bgr, reads_bgr)]
    pairs = {ORDER: orders, MASKS: has_masks}
    for field in FIELDS:
        if _is_used(config, field):
            pairs[field] = [value_of(x, field) for x in (config, base)]
    # The statistics are listed in the order of the channels.
    reordered = PIXELS if is_bgr != reads_bgr else ()
    for rule, (here, there) in pairs.items():
        if rule in reordered or not _are_equal(here, there):
            yield Difference(rule, here, there, setting(rule, config, is_bgr))


def as_computed(config: Config, differences: Iterable[Difference]) -> Config:
    """Returns a copy of a config with the rules of the library where nothing sets them."""
    there = copy.deepcopy(config)
    for each in differences:
        if each.setting is None:
            set_field(there, each.rule, each.there)
    return there


def table(differences: Iterable[Difference], base: str) -> str:
    """Returns the differences as a table in Markdown."""
    lines = [f"| rule | this model | {base} | to set there |", "|---|---|---|---|"]
    for each in differences:
        words = FIELDS.get(each.rule, "")
        rule = f"{words} ({each.rule})" if words else each.rule
        values = " | ".join(_text(x) for x in (each.here, each.there))
        lines.append(f"| {rule} | {values} | {each.setting or 'cannot be set'} |")
    return "\n".join(lines)


def _text(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case tuple():
            return ", ".join(map(_text, value))
    return str(value)


def _is_used(config: Config, field: str) -> bool:
    """Whether a field means something in a config."""
    model = config.model
    if ".mask_head." in field and model.mask_head is None:
        return False
    if field.startswith("model.backbone.") and field.count(".") == 2:
        if field.rpartition(".")[2] not in model.backbone.__dataclass_fields__:
            return False
    if value_of(config, field) is None:  # Of a part that the network does not have.
        return False
    if field.endswith(".norm_eps"):
        return value_of(config, field.removesuffix("_eps")) not in ("none", None)
    if field == "model.backbone.c5_dilation":
        return model.fpn is None
    if field in ("model.box_head.channels", "model.box_head.norm"):
        return model.box_head.num_convs > 0
    if field in ("model.roi.sampling_ratio", "model.roi.aligned"):
        return model.roi.pooling == "align"
    return True


def _are_equal(a: Any, b: Any) -> bool:
    """Whether values are equal, but for rounding of pixel statistics."""
    if {a, b} == {"frozen_batch", "fixed_batch"}:
        return True  # They differ in training.
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(map(_are_equal, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b
