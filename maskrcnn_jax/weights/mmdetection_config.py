"""Reads a config of MMDetection 3, as its tool prints it whole, to our settings.

The file is Python of assignments of literals and ``dict(...)``. It is parsed and never run; any
other Python is refused with its line. Only what detection needs is read: the network, its rules,
and the size of test images.
"""

import ast
import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskrcnn_jax import config_check, presets
from maskrcnn_jax.config import Config
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
    "rpn_head.loss_bbox.type": "L1Loss",
    "roi_head.type": "StandardRoIHead",
    "roi_head.bbox_head.bbox_coder.type": "DeltaXYWHBBoxCoder",
    "roi_head.bbox_head.bbox_coder.target_means": (0, 0, 0, 0),
    "roi_head.bbox_head.loss_cls.type": "CrossEntropyLoss",
    "roi_head.bbox_head.loss_cls.use_sigmoid": False,
    "roi_head.bbox_head.loss_bbox.type": "L1Loss",
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
# Keys that follow from others, or that only training reads.
IGNORED = (
    *("data_preprocessor.pad_mask", "backbone.init_cfg.*", "init_cfg"),
    *("*.norm_cfg.requires_grad", "*.norm_cfg.num_groups", "neck.in_channels", "*.in_channels"),
    *("rpn_head.feat_channels", "*.loss_weight", "roi_head.mask_head.loss_mask.*"),
    *("roi_head.bbox_head.roi_feat_size", "*_roi_extractor.out_channels"),
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
        return _convert(parse(path.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a config of MMDetection: {error}") from error


def parse(text: str) -> dict[str, Any]:
    """Returns the values that a config assigns, by name; lists are tuples.

    Raises ValueError, which names the line, for anything but assignments of literals.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno} is no Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no Python: {error}") from error
    found = {}
    try:
        for node in tree.body:
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if is_text:
                continue
            is_assignment = isinstance(node, ast.Assign) and len(node.targets) == 1
            if not is_assignment or not isinstance(node.targets[0], ast.Name):
                raise ValueError(_refusal(node))
            found[node.targets[0].id] = _literal(node.value)
    except RecursionError as error:
        raise ValueError("its values are nested too deep") from error
    return found


def _refusal(node: ast.AST) -> str:
    return (
        f"line {node.lineno} is a {type(node).__name__}: only assignments of literals and "
        "dict(...) are read, as MMDetection's tools/misc/print_config.py writes them"
    )


def _literal(node: ast.expr) -> Any:
    """Returns the value of a literal or of ``dict(...)``, without running anything."""
    match node:
        case ast.Constant(value):
            return value
        case ast.List(items) | ast.Tuple(items):
            return tuple(_literal(item) for item in items)
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
            return -number
        case ast.Dict(keys, values) if all(isinstance(key, ast.Constant) for key in keys):
            pairs = zip(keys, values, strict=True)
            return {str(key.value): _literal(value) for key, value in pairs}
        case ast.Call(ast.Name("dict"), [], keywords) if all(x.arg for x in keywords):
            return {x.arg: _literal(x.value) for x in keywords}
    raise ValueError(_refusal(node))


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
    values = dict(_flat(found["model"]))
    config, problems = presets.mmdet_r50_fpn(), []
    if values.get("type") == "FasterRCNN":
        config.model.mask_head = None
    elif values.get("type") != "MaskRCNN":
        problems.append(f"model.type: {str(values.get('type'))[:100]}")
    for key, value in values.items():
        if key in FIELDS:
            set_field(config, FIELDS[key], value)
        elif key in FIXED and value != FIXED[key]:
            problems.append(f"model.{key}: {str(value)[:100]}, only {FIXED[key]} is possible")
        elif value is not None and not _is_known(key):
            problems.append(f"model.{key}: {str(value)[:100]} has no counterpart")
    try:
        problems += _set_converted(config, values)
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
    return key in FIXED or key in CONVERTED or is_ignored


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
    (scale,) = values["rpn_head.anchor_generator.scales"]
    model.rpn.anchor_sizes = tuple(float(scale * 2**level) for level in range(2, 7))
    model.rpn.aspect_ratios = values["rpn_head.anchor_generator.ratios"]
    for name, part in (("rpn", model.rpn), ("rcnn", model.roi)):
        if values.get(f"train_cfg.{name}.assigner.match_low_quality", True) is False:
            part.low_quality = "none"
    for name, part in (("rpn_head", model.rpn), ("roi_head.bbox_head", model.roi)):
        stds = values[f"{name}.bbox_coder.target_stds"]
        part.box_weights = tuple(round(1 / x, 6) for x in stds)
    model.roi.aligned = values.get("roi_head.bbox_roi_extractor.roi_layer.aligned", True)
    if values.get("backbone.norm_cfg.type", "BN") == "GN":
        model.backbone.norm = "group"
    elif values.get("backbone.norm_eval", True) is not True:
        model.backbone.norm = "batch"
    elif values.get("backbone.norm_cfg.requires_grad", True) is False:
        model.backbone.norm = "frozen_batch"
    head = values["roi_head.bbox_head.type"]
    if head == "Shared4Conv1FCBBoxHead":
        model.box_head.num_convs, model.box_head.num_layers = 4, 1
        model.box_head.channels = values.get("roi_head.bbox_head.conv_out_channels", 256)
    elif head != "Shared2FCBBoxHead":
        yield f"model.roi_head.bbox_head.type: {str(head)[:100]}"
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


def _set_sizes(config: Config, pipeline: Any) -> Iterator[str]:
    """Sets the size of test images from the step of the pipeline that resizes."""
    for step in pipeline:
        if not isinstance(step, dict) or step.get("type") not in ("Resize", "FixScaleResize"):
            continue
        scale = step["scale"]
        if step.get("keep_ratio") is not True:
            yield f"test_pipeline: {str(step)[:100]}, only keep_ratio=True is possible"
        config.data.test_short_side, config.data.test_max_long_side = min(scale), max(scale)
