"""Reads a config of MMDetection 3, as its tool prints it whole, to our settings.

The file is Python of assignments of literals and ``dict(...)``. It is parsed and never run; any
other Python is refused with its line. Only what detection needs is read: the network, its rules,
and the size of test images.
"""

import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskrcnn_jax import config_check, presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.weights import literals
from maskrcnn_jax.weights.detectron2_config import Settings, set_field

MAX_BYTES = 1 << 20
# Keys below `model` that are read, and the field of ours that takes each.
FIELDS = {
    "backbone.depth": "model.backbone.depth",
    "backbone.groups": "model.backbone.groups",
    "backbone.base_width": "model.backbone.width_per_group",
    "neck.out_channels": "model.fpn.channels",
    "roi_head.bbox_head.fc_out_channels": "model.box_head.features",
    "roi_head.bbox_head.reg_class_agnostic": "model.box_head.class_agnostic",
    "roi_head.bbox_roi_extractor.roi_layer.output_size": "model.box_head.resolution",
    "roi_head.bbox_roi_extractor.roi_layer.sampling_ratio": "model.roi.sampling_ratio",
    "roi_head.mask_roi_extractor.roi_layer.output_size": "model.mask_head.resolution",
    "roi_head.mask_head.num_convs": "model.mask_head.num_convs",
    "roi_head.mask_head.conv_out_channels": "model.mask_head.channels",
    "roi_head.mask_head.class_agnostic": "model.mask_head.class_agnostic",
    "test_cfg.rcnn.max_per_img": "detection.num_detections",
    "test_cfg.rcnn.nms.iou_threshold": "detection.nms_threshold",
    "test_cfg.rcnn.score_thr": "detection.score_threshold",
    "test_cfg.rpn.max_per_img": "detection.num_proposals",
    "test_cfg.rpn.nms_pre": "detection.num_candidates",
    "test_cfg.rpn.nms.iou_threshold": "model.rpn.nms_threshold",
    "test_cfg.rpn.min_bbox_size": "model.rpn.min_box_size",
    "train_cfg.rpn_proposal.max_per_img": "model.rpn.num_proposals",
    "train_cfg.rpn_proposal.nms_pre": "model.rpn.num_candidates",
    "train_cfg.rpn.assigner.pos_iou_thr": "model.rpn.positive_iou",
    "train_cfg.rpn.assigner.neg_iou_thr": "model.rpn.negative_iou",
    "train_cfg.rpn.assigner.min_pos_iou": "model.rpn.min_low_quality_iou",
    "train_cfg.rpn.sampler.num": "model.rpn.num_samples",
    "train_cfg.rpn.sampler.pos_fraction": "model.rpn.positive_fraction",
    "train_cfg.rcnn.assigner.pos_iou_thr": "model.roi.positive_iou",
    "train_cfg.rcnn.assigner.min_pos_iou": "model.roi.min_low_quality_iou",
    "train_cfg.rcnn.sampler.num": "model.roi.num_samples",
    "train_cfg.rcnn.sampler.pos_fraction": "model.roi.positive_fraction",
}
# Keys that are read by `_convert`.
CONVERTED = (
    *("type", "data_preprocessor.mean", "data_preprocessor.std", "data_preprocessor.bgr_to_rgb"),
    *("backbone.type", "backbone.style", "backbone.frozen_stages"),
    *("backbone.norm_cfg.type", "backbone.norm_eval"),
    "neck.norm_cfg.type",
    *("rpn_head.anchor_generator.scales", "rpn_head.anchor_generator.ratios"),
    *("rpn_head.bbox_coder.target_stds", "roi_head.bbox_head.bbox_coder.target_stds"),
    *("rpn_head.loss_bbox.type", "rpn_head.loss_bbox.beta"),
    *("roi_head.bbox_head.loss_bbox.type", "roi_head.bbox_head.loss_bbox.beta"),
    *("roi_head.shared_head.depth", "roi_head.shared_head.style"),
    *("roi_head.num_stages", "roi_head.stage_loss_weights"),
    *("roi_head.bbox_head.type", "roi_head.bbox_head.num_classes"),
    *("roi_head.bbox_head.norm_cfg.type", "roi_head.bbox_head.conv_out_channels"),
    *("roi_head.mask_head.norm_cfg.type", "roi_head.bbox_roi_extractor.roi_layer.aligned"),
)
# Keys that must have this value if they are there.
FIXED: dict[str, Any] = {
    "data_preprocessor.type": "DetDataPreprocessor",
    "data_preprocessor.pad_size_divisor": 32,
    "backbone.num_stages": 4,
    "backbone.out_indices": (0, 1, 2, 3),
    "neck.type": "FPN",
    "neck.num_outs": 5,
    "rpn_head.type": "RPNHead",
    "rpn_head.num_convs": 1,
    "rpn_head.anchor_generator.type": "AnchorGenerator",
    "rpn_head.anchor_generator.strides": (4, 8, 16, 32, 64),
    "rpn_head.bbox_coder.type": "DeltaXYWHBBoxCoder",
    "rpn_head.bbox_coder.target_means": (0, 0, 0, 0),
    "rpn_head.loss_cls.type": "CrossEntropyLoss",
    "rpn_head.loss_cls.use_sigmoid": True,
    "roi_head.type": "StandardRoIHead",
    "roi_head.bbox_head.bbox_coder.type": "DeltaXYWHBBoxCoder",
    "roi_head.bbox_head.bbox_coder.target_means": (0, 0, 0, 0),
    "roi_head.bbox_head.loss_cls.type": "CrossEntropyLoss",
    "roi_head.bbox_head.loss_cls.use_sigmoid": False,
    "roi_head.bbox_roi_extractor.type": "SingleRoIExtractor",
    "roi_head.bbox_roi_extractor.roi_layer.type": "RoIAlign",
    "roi_head.mask_roi_extractor.type": "SingleRoIExtractor",
    "roi_head.mask_roi_extractor.roi_layer.type": "RoIAlign",
    "roi_head.mask_head.type": "FCNMaskHead",
    "train_cfg.rcnn.sampler.add_gt_as_proposals": True,
    "test_cfg.rcnn.mask_thr_binary": 0.5,
    "test_cfg.rcnn.nms.type": "nms",
    "test_cfg.rpn.nms.type": "nms",
}
# The values of these keys in a C4 network.
C4: dict[str, Any] = {
    "backbone.num_stages": 3,
    "backbone.strides": (1, 2, 2),
    "backbone.dilations": (1, 1, 1),
    "backbone.out_indices": (2,),
    "neck.type": None,
    "rpn_head.anchor_generator.strides": (16,),
    "roi_head.shared_head.type": "ResLayer",
    "roi_head.shared_head.stage": 3,
    "roi_head.shared_head.stride": 2,
    "roi_head.shared_head.dilation": 1,
    "roi_head.bbox_head.with_avg_pool": True,
}
HEADS = {  # Numbers of convolutions and of fully connected layers.
    "BBoxHead": (0, 0),
    "Shared2FCBBoxHead": (0, 2),
    "Shared4Conv1FCBBoxHead": (4, 1),
}
KINDS = "FasterRCNN", "MaskRCNN", "CascadeRCNN"
# The stages of a cascade differ in these keys, of a box head and of its training.
OF_STAGES = (
    *("bbox_coder.target_stds", "assigner.pos_iou_thr", "assigner.neg_iou_thr"),
    "assigner.min_pos_iou",
)
# Keys that follow from others, or that only training reads.
IGNORED = (
    *("data_preprocessor.pad_mask", "*.init_cfg.*", "init_cfg"),
    *("*.norm_cfg.requires_grad", "*.norm_cfg.num_groups", "neck.in_channels", "*.in_channels"),
    *("rpn_head.feat_channels", "*.loss_weight", "roi_head.mask_head.loss_mask.*"),
    *("roi_head.bbox_head.roi_feat_size", "*_roi_extractor.out_channels"),
    *("roi_head.shared_head.norm_cfg.type", "roi_head.shared_head.norm_eval"),
    *("*_roi_extractor.featmap_strides", "roi_head.mask_head.num_classes"),
    *("roi_head.mask_roi_extractor.roi_layer.sampling_ratio", "train_cfg.*"),
)
NORMS = {"BN": "batch", "SyncBN": "batch", "GN": "group"}


def read(path: str | Path) -> Settings:
    """Reads a config file.

    Raises:
        OSError: The file does not exist or cannot be read.
        ValueError: The file is no such config, or has settings without a counterpart; the message
            names the file, and lists all of them or the line.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return _convert(literals.parse(path.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a config of MMDetection: {error}") from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _convert(found: Mapping[str, Any]) -> Settings:
    """Returns the settings. Raises ValueError with the keys that have no counterpart."""
    if not isinstance(found.get("model"), dict):
        raise ValueError("it assigns no model")
    problems: list[str] = []
    try:
        model, stages = _first_stage(found["model"], problems)
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"its stages have another form than MMDetection's: {error}") from error
    values = dict(_flat(model))
    config, fixed = presets.mmdet_r50_fpn(), dict(FIXED)
    if "roi_head.shared_head.type" in values:
        presets.use_c4(config)
        fixed |= C4
    if values.get("type") not in KINDS:
        problems.append(f"model.type: {str(values.get('type'))[:100]}")
    if values.get("type") == "CascadeRCNN":
        presets.use_cascade_of_mmdetection(config)
        fixed["roi_head.type"] = "CascadeRoIHead"
        if "roi_head.mask_head.type" not in values:
            config.model.mask_head = None
    if values.get("type") == "FasterRCNN":
        config.model.mask_head = None
    for key, value in values.items():
        if key in FIELDS:
            set_field(config, FIELDS[key], value)
        elif key in fixed and value != fixed[key]:
            problems.append(f"model.{key}: {str(value)[:100]}, only {fixed[key]} is possible")
        elif value is not None and key not in fixed and not _is_known(key):
            problems.append(f"model.{key}: {str(value)[:100]} has no counterpart")
    try:
        problems += _set_converted(config, values)
        problems += _set_stages(config, values, stages)
        problems += _set_sizes(config, found.get("test_pipeline", ()))
    except (TypeError, KeyError, IndexError, ZeroDivisionError) as error:
        problems.append(f"a value has another form than MMDetection's: {error}")
    if problems:
        raise ValueError("it has settings without a counterpart:\n  " + "\n  ".join(problems))
    config_check.check(config)
    is_rgb = values.get("data_preprocessor.bgr_to_rgb", False) is True
    return Settings(config, "RGB" if is_rgb else "BGR")


def _is_known(key: str) -> bool:
    is_ignored = any(fnmatch.fnmatchcase(key, pattern) for pattern in IGNORED)
    return key in CONVERTED or is_ignored


def _first_stage(
    model: dict[str, Any], problems: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the model with the first stage of a cascade as the only one, and all stages.

    A stage has the keys of its box head and of its training. ``problems`` gets what else differs
    between stages.
    """
    if model.get("type") != "CascadeRCNN":
        return model, []
    roi_head, training = model["roi_head"], model.get("train_cfg") or {}
    heads = roi_head["bbox_head"]
    rules = training.get("rcnn", ({},) * len(heads))
    pairs = zip(heads, rules, strict=True)
    stages = [dict(_flat(head)) | dict(_flat(rule)) for head, rule in pairs]
    for i, stage in enumerate(stages):
        for key in stage.keys() | stages[0].keys():
            if key not in OF_STAGES and stage.get(key) != stages[0].get(key):
                problems.append(
                    f"model.roi_head, stage {i}: {key} {str(stage.get(key))[:100]}, the first "
                    f"stage has {str(stages[0].get(key))[:100]}"
                )
    first = roi_head | {"bbox_head": heads[0]}
    return model | {"roi_head": first, "train_cfg": training | {"rcnn": rules[0]}}, stages


def _set_stages(
    config: Config, values: Mapping[str, Any], stages: list[dict[str, Any]]
) -> Iterator[str]:
    """Sets the rules of the stages of a cascade."""
    cascade = config.model.cascade
    if cascade is None:
        return
    later = stages[1:]
    cascade.box_weights = tuple(_weights(x["bbox_coder.target_stds"]) for x in later)
    if all("assigner.pos_iou_thr" in x for x in later):
        cascade.positive_ious = tuple(x["assigner.pos_iou_thr"] for x in later)
    weights = values["roi_head.stage_loss_weights"]
    cascade.loss_weight = float(weights[1] / weights[0])
    expected = tuple(weights[0] * cascade.loss_weight**i for i in range(len(stages)))
    if weights != expected or weights[0] != 1:
        yield (
            f"model.roi_head.stage_loss_weights: {str(weights)[:100]}, only 1 and equal ratios "
            f"of {len(stages)} stages are possible"
        )


def _weights(stds: Any) -> tuple[float, ...]:
    """Returns the scales of deltas for their deviations, free of the rounding of a quotient."""
    quotients = [1 / x for x in stds]
    return tuple(round(x, 6) if abs(x - round(x, 6)) < 1e-9 else x for x in quotients)


def _set_converted(config: Config, values: Mapping[str, Any]) -> Iterator[str]:
    """Sets the fields of `CONVERTED`; yields what has no counterpart."""
    model = config.model
    step = 1 if values.get("data_preprocessor.bgr_to_rgb", False) is True else -1
    model.image_mean = tuple(x / 255 for x in values["data_preprocessor.mean"][::step])
    model.image_std = tuple(x / 255 for x in values["data_preprocessor.std"][::step])
    model.backbone.stride_in_1x1 = values.get("backbone.style", "pytorch") == "caffe"
    model.backbone.frozen_stages = values.get("backbone.frozen_stages", -1) + 1
    kind = values.get("backbone.type", "ResNet")
    if kind not in ("ResNet", "ResNeXt"):
        yield f"model.backbone.type: {str(kind)[:100]}"
    elif kind == "ResNeXt":
        model.backbone.width_per_group = values.get("backbone.base_width", 4)
    elif model.backbone.groups != 1:
        yield f"model.backbone.groups: {str(model.backbone.groups)[:100]} of a ResNet"
    model.num_classes = values["roi_head.bbox_head.num_classes"] + 1
    scales, levels = values["rpn_head.anchor_generator.scales"], model.levels
    if model.fpn is not None and len(scales) != 1:
        yield f"model.rpn_head.anchor_generator.scales: {str(scales)[:100]}, only one is possible"
    sizes = [scale * 2**level for level in levels for scale in scales]
    model.rpn.anchor_sizes = tuple(map(float, sizes))
    model.rpn.aspect_ratios = values["rpn_head.anchor_generator.ratios"]
    for name, part in (("rpn", model.rpn), ("rcnn", model.roi)):
        if values.get(f"train_cfg.{name}.assigner.match_low_quality", True) is False:
            part.low_quality = "none"
    for name, part in (("rpn_head", model.rpn), ("roi_head.bbox_head", model.roi)):
        part.box_weights = _weights(values[f"{name}.bbox_coder.target_stds"])
        loss = values[f"{name}.loss_bbox.type"]
        if loss not in ("L1Loss", "SmoothL1Loss"):
            yield f"model.{name}.loss_bbox.type: {str(loss)[:100]}"
        is_l1 = loss == "L1Loss"
        part.smooth_l1_beta = 0.0 if is_l1 else values.get(f"{name}.loss_bbox.beta", 1.0)
    model.roi.aligned = values.get("roi_head.bbox_roi_extractor.roi_layer.aligned", True)
    if values.get("backbone.norm_cfg.type", "BN") == "GN":
        model.backbone.norm = "group"
    elif values.get("backbone.norm_eval", True) is not True:
        model.backbone.norm = "batch"
    elif values.get("backbone.norm_cfg.requires_grad", True) is False:
        model.backbone.norm = "frozen_batch"
    head = values["roi_head.bbox_head.type"]
    if head not in HEADS or model.box_head.res5 != (head == "BBoxHead"):
        yield f"model.roi_head.bbox_head.type: {str(head)[:100]}"
    else:
        model.box_head.num_convs, model.box_head.num_layers = HEADS[head]
    if model.box_head.num_convs:
        model.box_head.channels = values.get("roi_head.bbox_head.conv_out_channels", 256)
    if model.box_head.res5:
        yield from _set_last_stage(config, values)
    for name, part in (
        ("neck", model.fpn),
        ("roi_head.bbox_head", model.box_head),
        ("roi_head.mask_head", model.mask_head),
    ):
        norm = values.get(f"{name}.norm_cfg.type")
        if norm is not None and norm not in NORMS:
            yield f"model.{name}.norm_cfg.type: {str(norm)[:100]}"
        elif norm is not None and part is not None and getattr(part, "num_convs", 1):
            part.norm = NORMS[norm]


def _set_last_stage(config: Config, values: Mapping[str, Any]) -> Iterator[str]:
    """Sets what follows from the last stage of the ResNet in the heads of a C4 network."""
    # The mask head reads what the box head pools.
    set_field(config, "model.mask_head.resolution", config.model.box_head.resolution // 2)
    for key, default in (("depth", None), ("style", "pytorch")):
        whole, last = (
            values.get(f"{x}.{key}", default) for x in ("backbone", "roi_head.shared_head")
        )
        if whole != last:
            yield f"model.roi_head.shared_head.{key}: {str(last)[:100]}, the backbone has {whole}"


def _set_sizes(config: Config, pipeline: Any) -> Iterator[str]:
    """Sets the size of test images from the step of the pipeline that resizes."""
    for step in pipeline:
        if not isinstance(step, dict) or step.get("type") not in ("Resize", "FixScaleResize"):
            continue
        scale = step["scale"]
        if step.get("keep_ratio") is not True:
            yield f"test_pipeline: {str(step)[:100]}, only keep_ratio=True is possible"
        config.data.test_short_side, config.data.test_max_long_side = min(scale), max(scale)
