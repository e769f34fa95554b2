"""MMDetection's side of the comparison: builds its model, and records the results of its stages.

Importing this module loads torch, torchvision, MMDetection 3 and MMCV with its operators.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.modules import resnet
from maskrcnn_jax.parity import recording, reference
from maskrcnn_jax.parity.recording import channels_last, rows
from maskrcnn_jax.parity.records import Outcome, Peer, Stages
from maskrcnn_jax.weights import layout, mmdetection, mmdetection_config

BASE = "configs/_base_/models/mask-rcnn_r50_fpn.py"
C4_BASE = "configs/_base_/models/mask-rcnn_r50-caffe-c4.py"
CASCADE_BASE = "configs/_base_/models/cascade-mask-rcnn_r50_fpn.py"
# The settings that MMDetection does not have.
RULES = {
    "model.box_head.classifier": "softmax",
    "model.dtype": "float32",
    "model.limit_shrinking": True,
    "model.backbone.norm_eps": 1e-5,
    "model.fpn.norm_eps": 1e-5,
    "model.box_head.norm_eps": 1e-5,
    "model.mask_head.norm_eps": 1e-5,
    "model.rpn.round_anchors": False,
    "model.rpn.anchor_stride": "level",
    "model.rpn.score_threshold": 0.0,
    "model.roi.pooling": "align",
    "model.cascade.average": "logits",
    "model.cascade.mask_heads": "each",
    "model.roi.level_rule": "mmdetection",
    "detection.min_box_size": 0.0,
    "detection.clip_to_original": False,
    "detection.paste": "centres",
    "data.size_rule": "mmdetection",
    "data.resize": "opencv",
}
NORMS = {
    "none": None,
    "frozen_batch": {"type": "BN", "requires_grad": False},
    "fixed_batch": {"type": "BN", "requires_grad": True},
    "batch": {"type": "BN", "requires_grad": True},
    "group": {"type": "GN", "num_groups": 32, "requires_grad": True},
}
OF_RESNEXT = ("backbone.groups", "backbone.base_width")  # No argument of its ResNet.
# MMCV's NMS adds offsets to the coordinates of fewer than 10,000 boxes.
MAX_BOXES_WITH_OFFSETS = 9_999


def _import_mmdetection() -> Any:
    try:
        importlib.import_module("mmcv.ops")
        mmdet = importlib.import_module("mmdet")
        importlib.import_module("mmdet.utils").register_all_modules()
    except (ImportError, AssertionError) as error:  # It asserts the version of MMCV.
        raise ImportError(
            "comparing needs MMDetection 3 and MMCV with its operators: pip install mmdet, and "
            f"mmcv for your version of torch, as MMCV's documentation says ({error})"
        ) from error
    return mmdet


mmdet = _import_mmdetection()
torch = reference.torch

from mmcv.transforms import Compose  # noqa: E402
from mmdet.models.roi_heads.mask_heads import fcn_mask_head  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmengine.config import Config as MMConfig  # noqa: E402


def peer(
    config: Config, variables: Mapping[str, Any], *, short_side: int, max_long_side: int
) -> Peer:
    """MMDetection with the weights of a model; arguments as in `JaxModel`.

    Raises:
        ValueError: MMDetection has no such model.
    """
    recording.check_rules(config, RULES, "MMDetection")
    model = MODELS.build(settings(config).model).eval()
    state = state_dict(variables, config.model)
    recording.load(model, {name: torch.from_numpy(array) for name, array in state.items()})
    resize = {"type": "Resize", "scale": (max_long_side, short_side), "keep_ratio": True}
    steps = [{"type": "LoadImageFromNDArray"}, resize, {"type": "PackDetInputs"}]
    predict_images = partial(predict, model, Compose(steps), presets.reads_bgr(config.model))
    return Peer("MMDetection", model, predict_images, MAX_BOXES_WITH_OFFSETS, "probability")


def state_dict(variables: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """Variables by MMDetection's names, without batch counters."""
    state = layout.restore(variables, list(mmdetection.entries(config)))
    if presets.reads_bgr(config):
        state[mmdetection.STEM] = np.ascontiguousarray(state[mmdetection.STEM][:, ::-1])
    return state


def settings(config: Config) -> MMConfig:
    """The settings of a model as MMDetection's, without pretrained weights.

    Raises:
        FileNotFoundError: The package has no configs.
    """
    package = Path(mmdet.__file__).parent
    # The first folder is that of an installed package, the second that of a checkout.
    name = BASE if config.model.cascade is None else CASCADE_BASE
    name = C4_BASE if config.model.box_head.res5 else name
    found = [x / name for x in (package / ".mim", package.parent) if (x / name).is_file()]
    if not found:
        raise FileNotFoundError(f"MMDetection in {package} has no {name}")
    base = MMConfig.fromfile(found[0])
    if config.model.mask_head is None:
        base.model.type = "FasterRCNN" if config.model.cascade is None else "CascadeRCNN"
        del base.model.roi_head["mask_head"], base.model.roi_head["mask_roi_extractor"]
    values = _fields(config) | _converted(config.model)
    if config.model.box_head.res5:
        values = _of_c4(values, config.model)
    if config.model.cascade is not None:
        values = _of_stages(values, config.model)
    base.merge_from_dict({f"model.{key}": value for key, value in values.items()})
    return base


def _of_c4(values: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """The values of a network with a pyramid as those of a C4 network of the same sizes."""
    head, kept = "roi_head.bbox_head.", ("num_classes", "bbox_coder.target_stds")
    kept = {f"{head}{name}" for name in (*kept, "reg_class_agnostic")}
    dropped = (head, "neck.", "roi_head.mask_roi_extractor.", "rpn_head.anchor_generator.scales")
    found = {k: x for k, x in values.items() if k in kept or not k.startswith(dropped)}
    channels = resnet.stage_channels(model.backbone)
    found |= dict.fromkeys(("rpn_head.in_channels", "rpn_head.feat_channels"), channels[4])
    found["roi_head.bbox_roi_extractor.out_channels"] = channels[4]
    found["rpn_head.anchor_generator.scales"] = [size / 16 for size in model.rpn.anchor_sizes]
    found["roi_head.shared_head.depth"] = model.backbone.depth
    found["roi_head.shared_head.norm_cfg"] = NORMS[model.backbone.norm]
    found["roi_head.bbox_head.in_channels"] = channels[5]
    if model.mask_head is not None:
        found["roi_head.mask_head.in_channels"] = channels[5]
        found.pop("roi_head.mask_head.norm_cfg")
    found["train_cfg.rpn.allowed_border"] = -1
    return found


def _of_stages(values: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """The values of a single stage as those of each stage of a cascade."""
    found, stages = {}, range(model.cascade.num_stages)
    for key, value in values.items():
        parts = next((x for x in ("roi_head.bbox_head.", "train_cfg.rcnn.") if x in key), None)
        by_stage = [key.replace(parts, f"{parts}{i}.") for i in stages] if parts else [key]
        found |= dict.fromkeys(by_stage, value)
    for i, weights in enumerate(model.cascade.box_weights, start=1):
        found[f"roi_head.bbox_head.{i}.bbox_coder.target_stds"] = [1 / x for x in weights]
    # Our anchors that cross the border of the image take part in training, as in its Mask R-CNN.
    found["train_cfg.rpn.allowed_border"] = -1
    for i, iou in enumerate(model.cascade.positive_ious, start=1):
        for name in ("pos_iou_thr", "neg_iou_thr", "min_pos_iou"):
            found[f"train_cfg.rcnn.{i}.assigner.{name}"] = iou
    return found


def _fields(config: Config) -> dict[str, Any]:
    """The values of MMDetection's keys that have a field of ours."""
    found = {}
    for key, field in mmdetection_config.FIELDS.items():
        value: Any = config
        for part in field.split("."):
            value = getattr(value, part, None)  # A model may have no mask head.
        if value is not None and key not in OF_RESNEXT:
            found[key] = value
    return found


def _converted(model: ModelConfig) -> dict[str, Any]:
    """The values of MMDetection's keys that have another form than ours."""
    backbone, head = model.backbone, model.box_head
    channels, neck_norm = (model.fpn.channels, model.fpn.norm) if model.fpn else (0, "none")
    stem, is_bgr = backbone.stem_channels, presets.reads_bgr(model)
    step, box = -1 if is_bgr else 1, "roi_head.bbox_head"
    values = {
        "data_preprocessor.mean": [255 * x for x in model.image_mean[::step]],
        "data_preprocessor.std": [255 * x for x in model.image_std[::step]],
        "data_preprocessor.bgr_to_rgb": not is_bgr,
        "backbone.init_cfg": None,
        "backbone.style": "caffe" if model.backbone.stride_in_1x1 else "pytorch",
        "backbone.frozen_stages": model.backbone.frozen_stages - 1,
        "backbone.norm_cfg": NORMS[model.backbone.norm],
        "backbone.stem_channels": stem,
        "backbone.base_channels": stem,
        "neck.in_channels": list(resnet.stage_channels(backbone).values()),
        "neck.norm_cfg": NORMS[neck_norm],
        "rpn_head.in_channels": channels,
        "rpn_head.feat_channels": channels,
        "rpn_head.num_convs": model.rpn.num_convs,
        "rpn_head.anchor_generator.scales": [model.rpn.anchor_sizes[0] / 4],
        "rpn_head.anchor_generator.ratios": list(model.rpn.aspect_ratios),
        "rpn_head.bbox_coder.target_stds": [1 / x for x in model.rpn.box_weights],
        "roi_head.bbox_roi_extractor.out_channels": channels,
        "roi_head.bbox_roi_extractor.roi_layer.aligned": model.roi.aligned,
        f"{box}.type": "ConvFCBBoxHead",
        f"{box}.num_shared_convs": head.num_convs,
        f"{box}.num_shared_fcs": head.num_layers,
        f"{box}.conv_out_channels": head.channels,
        f"{box}.in_channels": channels,
        f"{box}.roi_feat_size": head.resolution,
        f"{box}.norm_cfg": NORMS[head.norm],
        f"{box}.num_classes": model.num_classes - 1,
        f"{box}.bbox_coder.target_stds": [1 / x for x in model.roi.box_weights],
    }
    if backbone.groups > 1:
        values |= {"backbone.type": "ResNeXt", "backbone.groups": backbone.groups}
        values["backbone.base_width"] = backbone.width // backbone.groups
    return values if model.mask_head is None else values | _mask_values(model, channels)


def _mask_values(model: ModelConfig, channels: int) -> dict[str, Any]:
    return {
        "roi_head.mask_roi_extractor.out_channels": channels,
        "roi_head.mask_roi_extractor.roi_layer.sampling_ratio": model.roi.sampling_ratio,
        "roi_head.mask_roi_extractor.roi_layer.aligned": model.roi.aligned,
        "roi_head.mask_head.in_channels": channels,
        "roi_head.mask_head.num_classes": model.num_classes - 1,
        "roi_head.mask_head.norm_cfg": NORMS[model.mask_head.norm],
    }


@torch.no_grad()
def predict(
    model: torch.nn.Module, pipeline: Any, is_bgr: bool, images: Sequence[np.ndarray]
) -> list[Stages]:
    """Runs the model on a batch of images; returns the results of each image.

    Args:
        model: A model whose network reads BGR if ``is_bgr`` is set, otherwise RGB.
        pipeline: Resizes and packs an image.
        is_bgr: As above.
        images: uint8 [h, w, 3], RGB.
    """
    packed = [pipeline({"img": image[:, :, ::-1], "img_id": i}) for i, image in enumerate(images)]
    data = {name: [each[name] for each in packed] for name in ("inputs", "data_samples")}
    heads, rpn = model.roi_head, model.rpn_head
    parts = {
        "input": model.data_preprocessor,
        "backbone": model.backbone,
        "neck": model.neck if model.with_neck else model.backbone,
        "rpn_head": rpn,
    }
    stages = {"box_pool": heads.bbox_roi_extractor, "box_head": heads.bbox_head}
    if heads.with_mask:
        # In a C4 network the last call is that for masks.
        pooled = heads.shared_head if heads.with_shared_head else heads.mask_roi_extractor
        stages |= {"mask_pool": pooled, "mask_head": heads.mask_head}
    is_cascade = isinstance(heads.bbox_head, torch.nn.ModuleList)
    stages = {name: list(x) if is_cascade else [x] for name, x in stages.items()}
    of_stages = {
        f"{name}/{i}": module for name, found in stages.items() for i, module in enumerate(found)
    }
    with recording.recorded(parts, None, of_stages) as outputs, _results(outputs, rpn, heads):
        predictions = [sample.pred_instances for sample in model.test_step(data)]
    for name, found in stages.items():
        calls = [outputs[f"{name}/{i}"] for i in range(len(found))]
        place = -1 if name.startswith("mask") else 0
        outputs[name] = [each[place] for each in calls] if all(calls) else []
    if heads.with_mask and not outputs["mask_head"]:  # There is no detection in the batch.
        extractor = heads.mask_roi_extractor[0] if is_cascade else heads.mask_roi_extractor
        side = extractor.roi_layers[0].output_size[0] // (2 if heads.with_shared_head else 1)
        head = stages["mask_head"][0]
        outputs["mask_pool"] = [((), torch.zeros(0, head.in_channels, side, side))]
        outputs["mask_head"] = [((), torch.zeros(0, head.num_classes, 2 * side, 2 * side))]
    outputs["is_bgr"] = is_bgr
    outputs["first_level"] = int(np.log2(rpn.prior_generator.strides[0][0]))
    sizes = [tuple(each.shape[-2:]) for each in outputs["neck"]]
    outputs["anchors"] = rpn.prior_generator.grid_priors(sizes, device="cpu")
    return [_stages(outputs, found, images[i].shape[:2], i) for i, found in enumerate(predictions)]


@contextmanager
def _results(outputs: dict[str, Any], rpn: Any, heads: Any) -> Iterator[None]:
    """Adds the proposals and the detected boxes, which are results of methods, to the outputs."""
    methods = {"proposals": (rpn, "predict"), "detected": (heads, "predict_bbox")}

    def keep(name: str, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            found = method(*args, **kwargs)
            # The mask head later scales the boxes in place.
            outputs[name] = [each.bboxes.clone() for each in found]
            return found

        return call

    for name, (owner, method) in methods.items():
        setattr(owner, method, keep(name, getattr(owner, method)))
    try:
        yield
    finally:
        for owner, method in methods.values():
            delattr(owner, method)


def _stages(outputs: dict[str, Any], final: Any, original_size: tuple[int, int], i: int) -> Stages:
    """The results for one image of a batch, of which ``final`` holds the detections."""
    batch, of_rois = outputs["input"]["inputs"], rows(outputs["proposals"], i)
    image = channels_last(batch[i]).numpy()
    levels = partial(recording.levels, first=outputs["first_level"])
    mask_features, mask_logits, masks = _masks(outputs, final, i)
    logits = [logits[of_rois] for _, (logits, _) in outputs["box_head"]]
    scored = logits[0] if len(logits) == 1 else sum(logits) / len(logits)
    deltas_of_rois = outputs["box_head"][-1][1][1][of_rois]
    found = scored.numpy(), deltas_of_rois.numpy()
    class_logits, class_deltas = recording.background_first(*found)
    sample = outputs["input"]["data_samples"][i]
    boxes = outputs["detected"][i].numpy()
    if masks is None:
        # Without a mask head, MMDetection scales boxes before it suppresses duplicates.
        boxes = boxes * np.array(sample.scale_factor * 2, np.float32)
    objectness, deltas = outputs["rpn_head"]
    outcome = Outcome(
        size=tuple(sample.img_shape),
        original_size=original_size,
        canvas=tuple(batch.shape[2:]),
        anchors=levels(outputs["anchors"]),
        objectness=levels([channels_last(x[i]).flatten() for x in objectness]),
        deltas=levels([channels_last(x[i]).reshape(-1, 4) for x in deltas]),
        proposals=outputs["proposals"][i].numpy(),
        rois=np.stack([x[of_rois, 1:].numpy() for (_, x, *_), _ in outputs["box_pool"]]),
        class_logits=class_logits,
        class_deltas=class_deltas,
        boxes=boxes,
        labels=final.labels.numpy() + 1,
        scores=final.scores.numpy(),
        original_boxes=final.bboxes.numpy(),
        masks=masks,
    )
    return Stages(
        image=image[:, :, ::-1] if outputs["is_bgr"] else image,
        backbone=levels([channels_last(x[i]) for x in outputs["backbone"]]),
        pyramid=levels([channels_last(x[i]) for x in outputs["neck"]]),
        box_features=np.concatenate(
            [channels_last(x[of_rois]).numpy() for _, x in outputs["box_pool"]]
        ),
        mask_features=mask_features,
        mask_logits=mask_logits,
        outcome=outcome,
    )


def _masks(
    outputs: dict[str, Any], final: Any, i: int
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The features and logits of masks, and the probabilities behind the final masks.

    MMDetection does not return these probabilities.
    """
    if final.get("masks", None) is None:
        return None, None, None
    of_image, labels = rows(outputs["detected"], i), final.labels.numpy()
    pooled = channels_last(outputs["mask_pool"][0][1][of_image]).numpy()
    votes = torch.stack([x[of_image] for _, x in outputs["mask_head"]])
    merged = votes[0] if len(votes) == 1 else recording.logit_of_mean(votes)
    logits = channels_last(merged).numpy()
    probabilities = channels_last(votes.sigmoid().mean(0)).numpy()
    drawn = torch.from_numpy(recording.of_class(probabilities, labels))
    pasted = recording.paste(fcn_mask_head._do_paste_mask, drawn, final.bboxes, final.masks.numpy())
    return pooled, recording.of_class(logits, labels), pasted
