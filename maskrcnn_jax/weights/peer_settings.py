"""The code or key that sets one of our fields in torchvision, Detectron2 or MMDetection.

Each function takes the path of a field of `config.Config`, or `ORDER` or `MASKS`, the config of the
model, and whether the stem of the file reads BGR. It returns None for a rule that the library has
no setting for.
"""

from functools import reduce
from typing import Any

from maskrcnn_jax.config import Config
from maskrcnn_jax.model_config import ViTConfig
from maskrcnn_jax.modules import resnet
from maskrcnn_jax.weights import (
    convnext,
    detectron2_keys,
    mmdetection_config,
    torchvision_resnet,
)

ORDER = "order of channels"
MASKS = "mask head"
_DETECTRON2 = {field: key for key, (_, field) in detectron2_keys.FIELDS.items()}
_DETECTRON2_NORMS = {name: key for key, name in detectron2_keys.NORMS.items() if key != "SyncBN"}
_DETECTRON2_NORMS["fixed_batch"] = "FrozenBN"
_VITDET = {
    "model.backbone.width": "model.backbone.net.embed_dim",
    "model.backbone.depth": "model.backbone.net.depth",
    "model.backbone.num_heads": "model.backbone.net.num_heads",
    "model.backbone.window": "model.backbone.net.window_size",
    "model.rpn.nms_threshold": "model.proposal_generator.nms_thresh",
    "detection.score_threshold": "model.roi_heads.box_predictor.test_score_thresh",
    "detection.nms_threshold": "model.roi_heads.box_predictor.test_nms_thresh",
    "detection.num_detections": "model.roi_heads.box_predictor.test_topk_per_image",
}
_MMDETECTION = {field: key for key, field in mmdetection_config.FIELDS.items()}
_MMDETECTION_PARTS = {
    "backbone": "backbone",
    "fpn": "neck",
    "box_head": "roi_head.bbox_head",
    "mask_head": "roi_head.mask_head",
}
_TORCHVISION = {
    "data.test_short_side": "min_size",
    "data.test_max_long_side": "max_size",
    "model.image_mean": "image_mean",
    "model.image_std": "image_std",
    "model.rpn.score_threshold": "rpn_score_thresh",
    "model.rpn.nms_threshold": "rpn_nms_thresh",
    "model.roi.box_weights": "bbox_reg_weights",
    "model.num_classes": "num_classes",
    "detection.num_candidates": "rpn_pre_nms_top_n_test",
    "detection.num_proposals": "rpn_post_nms_top_n_test",
    "detection.score_threshold": "box_score_thresh",
    "detection.nms_threshold": "box_nms_thresh",
    "detection.num_detections": "box_detections_per_img",
}


def torchvision(field: str, config: Config, is_bgr: bool) -> str | None:
    """Returns an argument of torchvision's function, or a line of code."""
    value, model = value_of(config, field), config.model
    if field in _TORCHVISION:
        return f"{_TORCHVISION[field]}={_plain(value)}"
    match field.split("."):
        case ["model", "backbone", "stride_in_1x1"]:
            first, second = ("2, 2", "1, 1") if value else ("1, 1", "2, 2")
            return (
                "in the first block of layer2, layer3 and layer4 of model.backbone.body: "
                f"conv1.stride = {first}; conv2.stride = {second}"
            )
        case ["model", "backbone", "depth" | "norm" | "groups" | "width_per_group"]:
            kinds = {"batch": "BatchNorm2d"}
            norm = kinds.get(model.backbone.norm, "FrozenBatchNorm2d")
            name = torchvision_resnet.architecture(model.backbone)
            made = f"resnet_fpn_backbone(backbone_name='{name}', "
            return f"backbone={made}weights=None, norm_layer={norm})"
        case ["model", "backbone", "depths" | "width"]:
            name = convnext.architecture(model.backbone)
            return f"backbone=BackboneWithFPN({name}().features, ...)"
        case ["model", _, "norm_eps"]:
            return f"eps={value:g} of the norms in {field.split('.')[1]}"
        case ["model", "rpn", "anchor_sizes" | "aspect_ratios"]:
            sizes = tuple((size,) for size in model.rpn.anchor_sizes)
            ratios = (tuple(model.rpn.aspect_ratios),) * len(sizes)
            return f"rpn_anchor_generator=AnchorGenerator({sizes}, {ratios})"
        case ["model", "rpn", "num_convs"]:
            return f"rpn_head=RPNHead({model.fpn.channels}, 3, conv_depth={value})"
        case ["model", "roi", "sampling_ratio"]:
            return f"box_roi_pool and mask_roi_pool=MultiScaleRoIAlign(..., sampling_ratio={value})"
        case ["model", "box_head" | "mask_head" as part, name]:
            return f"{part}=... with {name} {value}"
        case ["model", "fpn", name]:
            return f"backbone=... with {name} {value} in its pyramid"
    return "fasterrcnn_... or maskrcnn_..." if field == MASKS else None


def detectron2(field: str, config: Config, is_bgr: bool) -> str | None:
    """Returns a key of Detectron2's YAML with its value."""
    value, model = value_of(config, field), config.model
    if isinstance(model.backbone, ViTConfig):
        return _vitdet(field, config)
    both = "MODEL.ROI_BOX_HEAD.{0}, MODEL.ROI_MASK_HEAD.{0}: {1}"
    if field == ORDER:
        return f"INPUT.FORMAT: {'BGR' if is_bgr else 'RGB'}"
    if field == MASKS:
        return f"MODEL.MASK_ON: {model.mask_head is not None}"
    match field:
        case "model.image_mean":
            return f"MODEL.PIXEL_MEAN: {_pixels(value, is_bgr)}"
        case "model.image_std":
            return f"MODEL.PIXEL_STD: {_pixels(value, is_bgr)}"
        case "model.backbone.depth" | "model.backbone.stem_channels":
            backbone = model.backbone
            return (
                f"MODEL.RESNETS.DEPTH: {backbone.depth}, "
                f"STEM_OUT_CHANNELS: {backbone.stem_channels}, "
                f"WIDTH_PER_GROUP: {backbone.width // backbone.groups}, "
                f"RES2_OUT_CHANNELS: {resnet.stage_channels(backbone)[2]}"
            )
        case "model.backbone.width_per_group":
            width = model.backbone.width // model.backbone.groups
            return f"MODEL.RESNETS.WIDTH_PER_GROUP: {width}"
        case "model.backbone.norm":
            return f'MODEL.RESNETS.NORM: "{_DETECTRON2_NORMS[value]}"'
        case "model.fpn.norm":
            return f'MODEL.FPN.NORM: "{_DETECTRON2_NORMS[value]}"'
        case "model.box_head.norm" | "model.mask_head.norm":
            head = "BOX" if "box" in field else "MASK"
            return f'MODEL.ROI_{head}_HEAD.NORM: "{_DETECTRON2_NORMS[value]}"'
        case "model.rpn.num_convs":
            return f"MODEL.RPN.CONV_DIMS: {[-1] * value}"
        case "model.rpn.anchor_sizes":
            sizes = [[size] for size in value] if model.fpn is not None else [list(value)]
            return f"MODEL.ANCHOR_GENERATOR.SIZES: {sizes}"
        case "model.rpn.aspect_ratios":
            return f"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS: {[list(value)]}"
        case "model.roi.pooling" | "model.roi.aligned":
            kind = "ROIPool" if model.roi.pooling == "pool" else "ROIAlign"
            kind += "V2" if model.roi.aligned and kind == "ROIAlign" else ""
            return both.format("POOLER_TYPE", kind)
        case "model.roi.sampling_ratio":
            return both.format("POOLER_SAMPLING_RATIO", value)
        case "model.box_head.classifier":
            return f"MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE: {value == 'sigmoid'}"
        case "model.num_classes":
            return f"MODEL.ROI_HEADS.NUM_CLASSES: {value - 1}"
        case "model.cascade.box_weights":
            weights = [list(x) for x in (model.roi.box_weights, *value)]
            return f"MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS: {weights}"
    return f"{_DETECTRON2[field]}: {_plain(value)}" if field in _DETECTRON2 else None


def _vitdet(field: str, config: Config) -> str | None:
    """Returns a field of Detectron2's LazyConfig of ViTDet with its value."""
    value, backbone = value_of(config, field), config.model.backbone
    if field == "model.backbone.global_blocks":
        windows = [i for i in range(backbone.depth) if i not in backbone.global_blocks]
        return f"model.backbone.net.window_block_indexes={windows}"
    if field == "model.backbone.image_side":
        return f"model.backbone.net.img_size={value}, model.backbone.square_pad={value}"
    if field in _VITDET:
        return f"{_VITDET[field]}={value}"
    heads, head, masks = "model.roi_heads", config.model.box_head, config.model.mask_head
    match field:
        case "model.fpn.channels":
            return f"model.backbone.out_channels={value}"
        case "model.box_head.channels" | "model.box_head.num_convs":
            return f"{heads}.box_head.conv_dims={[head.channels] * head.num_convs}"
        case "model.box_head.features" | "model.box_head.num_layers":
            return f"{heads}.box_head.fc_dims={[head.features] * head.num_layers}"
        case "model.mask_head.channels" | "model.mask_head.num_convs" if masks is not None:
            return f"{heads}.mask_head.conv_dims={[masks.channels] * (masks.num_convs + 1)}"
    if field == "model.num_classes":
        return f"model.roi_heads.num_classes={value - 1}"
    return None


def mmdet(field: str, config: Config, is_bgr: bool) -> str | None:
    """Returns a field of MMDetection's ``model``, or of the pipeline, with its value."""
    value, model = value_of(config, field), config.model
    part = _MMDETECTION_PARTS.get(field.split(".")[1]) if "." in field else None
    layers = "roi_head.{bbox,mask}_roi_extractor.roi_layer."
    if field == ORDER:
        return f"data_preprocessor.bgr_to_rgb={not is_bgr}"
    if field == MASKS:
        if model.cascade is not None:
            return "type='CascadeRCNN', with or without roi_head.mask_head"
        return "type='FasterRCNN'" if model.mask_head is None else "type='MaskRCNN'"
    match field:
        case "model.image_mean" | "model.image_std":
            return f"data_preprocessor.{field[-4:].strip('_')}={_pixels(value, is_bgr)}"
        case "data.test_short_side" | "data.test_max_long_side":
            scale = config.data.test_max_long_side, config.data.test_short_side
            return f"test_pipeline Resize scale={scale}"
        case "model.backbone.stem_channels":
            return f"backbone.stem_channels={value}, backbone.base_channels={value}"
        case "model.backbone.groups" | "model.backbone.width_per_group":
            backbone = model.backbone
            kind = "ResNeXt" if backbone.groups > 1 else "ResNet"
            base_width = backbone.width // backbone.groups
            return f"backbone: {kind}, groups={backbone.groups}, base_width={base_width}"
        case "model.backbone.stride_in_1x1":
            return f"backbone.style='{'caffe' if value else 'pytorch'}'"
        case "model.rpn.num_convs":
            return f"rpn_head.num_convs={value}"
        case "model.rpn.anchor_sizes":
            strides = [2**level for level in model.levels]
            sizes = f"base_sizes={list(value)}, scales=[1], strides={strides}"
            return f"rpn_head.anchor_generator: {sizes}"
        case "model.rpn.aspect_ratios":
            return f"rpn_head.anchor_generator.ratios={list(value)}"
        case "model.rpn.box_weights" | "model.roi.box_weights":
            head = "rpn_head" if "rpn" in field else "roi_head.bbox_head"
            return f"{head}.bbox_coder.target_stds={[round(1 / x, 6) for x in value]}"
        case "model.cascade.box_weights":
            stds = [[round(1 / x, 6) for x in weights] for weights in value]
            return f"roi_head.bbox_head[1:].bbox_coder.target_stds={stds}"
        case "model.roi.sampling_ratio" | "model.roi.aligned":
            return f"{layers}{field.rpartition('.')[2]}={value}"
        case "model.roi.pooling":
            return f"{layers}type='{'RoIPool' if value == 'pool' else 'RoIAlign'}'"
        case "model.box_head.num_convs" | "model.box_head.num_layers":
            counts = f"num_shared_convs={model.box_head.num_convs}"
            return f"{part}: ConvFCBBoxHead, {counts}, num_shared_fcs={model.box_head.num_layers}"
        case "model.box_head.channels":
            return f"{part}.conv_out_channels={value}"
        case "model.num_classes":
            heads = "roi_head.bbox_head" if model.mask_head is None else "roi_head.{bbox,mask}_head"
            return f"{heads}.num_classes={value - 1}"
    if part is not None and field.endswith(("norm", "norm_eps")):
        return f"{part}.norm_cfg={_norm_cfg(field.split('.')[1], config)}"
    return f"{_MMDETECTION[field]}={_plain(value)}" if field in _MMDETECTION else None


def _norm_cfg(part: str, config: Config) -> str:
    """Returns the norm of a part for MMDetection."""
    settings = getattr(config.model, part)
    match settings.norm:
        case "none":
            return "None"
        case "group":
            return f"dict(type='GN', num_groups=32, eps={settings.norm_eps:g})"
    trains = settings.norm != "frozen_batch"
    return f"dict(type='BN', requires_grad={trains}, eps={settings.norm_eps:g})"


def value_of(config: Config, field: str) -> Any:
    """Returns a field by its path; None if it is none."""
    return reduce(lambda owner, name: getattr(owner, name, None), field.split("."), config)


def _pixels(values: tuple[float, ...], is_bgr: bool) -> list[float]:
    """Returns statistics of pixels from 0 to 255 in the order of the file."""
    return [round(255 * x, 4) for x in values[:: -1 if is_bgr else 1]]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
