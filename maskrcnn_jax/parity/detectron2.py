"""Detectron2's side of the comparison: builds its model, and records the results of its stages.

Importing this module loads torch, torchvision and Detectron2: the installed one, or the checkout
that the environment variable DETECTRON2 names. Nothing of a checkout needs to be compiled.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.model_config import ModelConfig, ViTConfig
from maskrcnn_jax.modules import resnet
from maskrcnn_jax.parity import recording, reference
from maskrcnn_jax.parity.recording import channels_last, rows
from maskrcnn_jax.parity.records import Outcome, Peer, Stages
from maskrcnn_jax.weights import detectron2, detectron2_keys, layout

PACKAGES = "fvcore iopath omegaconf hydra-core yacs pycocotools cloudpickle tabulate termcolor"
# The settings that Detectron2 does not have.
RULES = {
    "model.dtype": "float32",
    "model.limit_shrinking": False,
    "model.backbone.norm_eps": 1e-5,
    "model.fpn.norm_eps": 1e-5,
    "model.box_head.norm_eps": 1e-5,
    "model.mask_head.norm_eps": 1e-5,
    "model.rpn.round_anchors": False,
    "model.rpn.anchor_stride": "level",
    "model.rpn.score_threshold": 0.0,
    "model.roi.pooling": "align",
    "model.cascade.average": "probabilities",
    "model.cascade.mask_heads": "one",
    "model.roi.level_rule": "detectron2",
    "detection.min_box_size": 0.0,
    "detection.clip_to_original": True,
    "detection.paste": "centres",
    "data.size_rule": "detectron2",
    "data.resize": "pillow",
}
# ViTDet has layer norm with another eps instead.
LAYER_NORM_RULES = RULES | dict.fromkeys((x for x in RULES if x.endswith(".norm_eps")), 1e-6)
VITDET = "configs/common/models/mask_rcnn_vitdet.py"
NORMS = {"none": "", "batch": "BN", "group": "GN"}
NORMS |= dict.fromkeys(("frozen_batch", "fixed_batch"), "FrozenBN")  # The same in detection.


def _import_detectron2() -> None:
    checkout = os.environ.get("DETECTRON2")
    try:
        if checkout and "detectron2" not in sys.modules:
            _add_package(Path(checkout))
        importlib.import_module("detectron2.modeling")
    except ImportError as error:
        raise ImportError(
            "comparing needs Detectron2: install it, or let the environment variable DETECTRON2 "
            f"name a checkout of it and pip install {PACKAGES} ({error})"
        ) from error


def _add_package(checkout: Path) -> None:
    """Makes the package of a checkout importable, but not the other folders beside it."""
    folder = checkout / "detectron2"
    if not (folder / "__init__.py").is_file():
        raise ImportError(f"DETECTRON2 names {checkout}, which is no checkout of Detectron2")
    spec = importlib.util.spec_from_file_location(
        "detectron2", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["detectron2"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["detectron2"])


_import_detectron2()
torch = reference.torch

from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate  # noqa: E402
from detectron2.data import transforms  # noqa: E402
from detectron2.layers import mask_ops  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402


def peer(
    config: Config, variables: Mapping[str, Any], *, short_side: int, max_long_side: int
) -> Peer:
    """Detectron2 with the weights of a model; arguments as in `JaxModel`.

    Raises:
        ValueError: Detectron2 has no such model.
    """
    if isinstance(config.model.backbone, ViTConfig):
        recording.check_rules(config, LAYER_NORM_RULES, "Detectron2")
        cfg, model = get_cfg(), vitdet(config).eval()
        cfg.INPUT.FORMAT = "RGB"
    else:
        recording.check_rules(config, RULES, "Detectron2")
        cfg = settings(config)
        model = build_model(cfg).eval()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = short_side, max_long_side
    state = state_dict(variables, config.model)
    recording.load(model, {name: torch.from_numpy(array) for name, array in state.items()})
    predict_images = partial(predict, model, cfg)
    return Peer("Detectron2", model, predict_images, reference.MAX_BOXES_WITH_OFFSETS)


def state_dict(variables: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """Variables by Detectron2's names, without batch counters."""
    state = layout.restore(variables, list(detectron2.entries(config)))
    if presets.reads_bgr(config):
        stem = next(name for name in detectron2.STEMS if name in state)
        state[stem] = np.ascontiguousarray(state[stem][:, ::-1])
    return state


def settings(config: Config) -> CfgNode:
    """The settings of a model as Detectron2's, for a CPU and without pretrained weights."""
    cfg, model = get_cfg(), config.model
    values = dict(detectron2_keys.FIXED) | _fields(config) | _converted(model)
    if model.box_head.res5:
        values |= detectron2_keys.C4
        values["MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION"] = model.box_head.resolution
    elif model.fpn is None:
        values |= detectron2_keys.DC5
    values |= {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": resnet.stage_channels(model.backbone)[2],
        "MODEL.RESNETS.WIDTH_PER_GROUP": model.backbone.width // model.backbone.groups,
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": values["MODEL.ROI_BOX_HEAD.POOLER_TYPE"],
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": model.roi.sampling_ratio,
    }
    for key, value in values.items():
        *parts, name = key.split(".")
        owner = cfg
        for part in parts:
            owner = owner[part]
        owner[name] = value
    return cfg


def vitdet(config: Config) -> torch.nn.Module:
    """The model of Detectron2's project ViTDet with the sizes of a config.

    Raises:
        FileNotFoundError: The environment variable DETECTRON2 names no checkout with its configs.
    """
    path = Path(os.environ.get("DETECTRON2", "")) / VITDET
    if not path.is_file():
        raise FileNotFoundError(f"DETECTRON2 must name a checkout with {VITDET}")
    lazy, model, detection = LazyConfig.load(str(path)).model, config.model, config.detection
    backbone, heads = model.backbone, lazy.roi_heads
    lazy.pixel_mean = [255 * x for x in model.image_mean]
    lazy.pixel_std = [255 * x for x in model.image_std]
    lazy.backbone.square_pad = lazy.backbone.net.img_size = backbone.image_side
    lazy.backbone.out_channels = model.fpn.channels
    lazy.backbone.net.update(
        embed_dim=backbone.width,
        depth=backbone.depth,
        num_heads=backbone.num_heads,
        drop_path_rate=backbone.drop_path,
        window_size=backbone.window,
        window_block_indexes=[i for i in range(backbone.depth) if i not in backbone.global_blocks],
    )
    counts = (model.rpn.num_candidates, detection.num_candidates)
    lazy.proposal_generator.pre_nms_topk = counts
    lazy.proposal_generator.post_nms_topk = (model.rpn.num_proposals, detection.num_proposals)
    heads.num_classes = model.num_classes - 1
    heads.batch_size_per_image = model.roi.num_samples
    heads.box_predictor.test_score_thresh = detection.score_threshold
    heads.box_predictor.test_nms_thresh = detection.nms_threshold
    heads.box_predictor.test_topk_per_image = detection.num_detections
    return instantiate(lazy)


def _fields(config: Config) -> dict[str, Any]:
    """The values of Detectron2's keys that have a field of ours."""
    found = {}
    for key, (_, field) in detectron2_keys.FIELDS.items():
        value: Any = config
        for part in field.split("."):
            value = getattr(value, part, None)  # A model may have no mask head.
        if value is not None:
            found[key] = value
    return found


def _converted(model: ModelConfig) -> dict[str, Any]:
    """The values of Detectron2's keys that have another form than ours."""
    rpn, mask_norm = model.rpn, getattr(model.mask_head, "norm", "none")
    step = -1 if presets.reads_bgr(model) else 1
    return {
        "MODEL.RESNETS.NORM": NORMS[model.backbone.norm],
        "MODEL.FPN.NORM": NORMS["none" if model.fpn is None else model.fpn.norm],
        "MODEL.ROI_BOX_HEAD.NORM": NORMS[model.box_head.norm],
        "MODEL.ROI_MASK_HEAD.NORM": NORMS[mask_norm],
        "MODEL.MASK_ON": model.mask_head is not None,
        "INPUT.FORMAT": "BGR" if presets.reads_bgr(model) else "RGB",
        "MODEL.PIXEL_MEAN": [255 * x for x in model.image_mean[::step]],
        "MODEL.PIXEL_STD": [255 * x for x in model.image_std[::step]],
        "MODEL.ANCHOR_GENERATOR.SIZES": (
            [list(rpn.anchor_sizes)] if model.fpn is None else [[x] for x in rpn.anchor_sizes]
        ),
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(rpn.aspect_ratios)],
        "MODEL.RPN.IOU_THRESHOLDS": [rpn.negative_iou, rpn.positive_iou],
        "MODEL.RPN.CONV_DIMS": [-1] * rpn.num_convs,
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [model.roi.positive_iou],
        "MODEL.ROI_HEADS.NUM_CLASSES": model.num_classes - 1,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2" if model.roi.aligned else "ROIAlign",
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": model.box_head.classifier == "sigmoid",
    } | _cascade(model)


def _cascade(model: ModelConfig) -> dict[str, Any]:
    if model.cascade is None:
        return {}
    weights = model.roi.box_weights, *model.cascade.box_weights
    return {
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
        "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": weights,
        "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": (model.roi.positive_iou, *model.cascade.positive_ious),
    }


@torch.no_grad()
def predict(model: torch.nn.Module, cfg: CfgNode, images: Sequence[np.ndarray]) -> list[Stages]:
    """Runs the model on a batch of images, uint8 [h, w, 3]; returns the results of each image."""
    limits = [cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST
    resize, inputs = transforms.ResizeShortestEdge(*limits), []
    for image in images:
        picture = image[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else image
        resized = resize.get_transform(picture).apply_image(picture).astype("float32")
        size = dict(zip(("height", "width"), image.shape[:2], strict=True))
        inputs.append({"image": torch.as_tensor(resized.transpose(2, 0, 1)), **size})
    heads, rpn = model.roi_heads, model.proposal_generator
    is_c4 = not hasattr(heads, "box_pooler")
    parts = {
        **_maps(model.backbone),
        "pyramid": model.backbone,
        "rpn_head": rpn.rpn_head,
        "anchors": rpn.anchor_generator,
        "rpn": rpn,
        "roi_heads": heads,
    }
    if heads.mask_on:
        # In a C4 network the last call is that for masks.
        pooled = heads.res5 if is_c4 else heads.mask_pooler
        parts |= {"mask_pool": pooled, "mask_logits": heads.mask_head.predictor}
    # Detectron2 later scales the boxes in place.
    copies = {"roi_heads": lambda output: [_copy(found) for found in output[0]]}
    is_cascade = isinstance(heads.box_predictor, torch.nn.ModuleList)
    predictors = heads.box_predictor if is_cascade else [heads.box_predictor]
    parts |= {f"box_predictor/{stage}": x for stage, x in enumerate(predictors)}
    pooler = heads.pooler if is_c4 else heads.box_pooler
    with recording.recorded(parts, copies, {"box_pool": pooler}) as outputs:
        outputs["images"] = model.preprocess_image(inputs)
        predictions = [prediction["instances"] for prediction in model(inputs)]
    outputs["box_pool"] = outputs["box_pool"][: len(predictors)]
    is_sigmoid = predictors[0].use_sigmoid_ce
    outputs["mean"] = recording.logit_of_mean if is_sigmoid else recording.log_mean_of_softmax
    outputs["first_level"] = 2 if _has_pyramid(model) else 4
    is_bgr = cfg.INPUT.FORMAT == "BGR"
    return [_stages(outputs, found, is_bgr, i) for i, found in enumerate(predictions)]


def _has_pyramid(model: torch.nn.Module) -> bool:
    return len(model.proposal_generator.in_features) > 1


def _maps(backbone: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The modules that make C2 to C5, by name."""
    if not hasattr(backbone, "simfp_2"):
        return {"bottom_up": getattr(backbone, "bottom_up", backbone)}
    finest = backbone.simfp_2[3], backbone.simfp_3[0], backbone.net, backbone.simfp_5[0]
    return {f"C{level}": module for level, module in enumerate(finest, start=2)}


def _copy(found: Any) -> Any:
    copy = type(found)(found.image_size, **found.get_fields())
    copy.pred_boxes = found.pred_boxes.clone()
    return copy


def _stages(outputs: dict[str, Any], final: Any, is_bgr: bool, i: int) -> Stages:
    """The results for one image of a batch, of which ``final`` holds the detections."""
    image = channels_last(outputs["images"].tensor[i]).numpy()
    levels = partial(recording.levels, first=outputs["first_level"])
    proposals = outputs["rpn"][0]
    detected = [len(found) for found in outputs["roi_heads"]]
    kept = _kept(outputs["roi_heads"][i], final.image_size)
    first = sum(detected[:i])
    mask_features = mask_logits = None
    if "mask_logits" in outputs:
        of_image = slice(first, first + detected[i])
        mask_features = channels_last(outputs["mask_pool"][of_image]).numpy()[kept]
        logits = channels_last(outputs["mask_logits"][of_image]).numpy()[kept]
        mask_logits = recording.of_class(logits, final.pred_classes.numpy())
    return Stages(
        image=image[:, :, ::-1] if is_bgr else image,
        backbone=levels([channels_last(x[i]) for x in _of_maps(outputs)]),
        pyramid=levels([channels_last(x[i]) for x in outputs["pyramid"].values()]),
        box_features=np.concatenate(
            [channels_last(x[rows(proposals, i)]).numpy() for _, x in outputs["box_pool"]]
        ),
        mask_features=mask_features,
        mask_logits=mask_logits,
        outcome=_outcome(outputs, final, kept, i),
    )


def _of_maps(outputs: dict[str, Any]) -> list[torch.Tensor]:
    """C2 to C5."""
    if "bottom_up" in outputs:
        return list(outputs["bottom_up"].values())
    found = [outputs[f"C{level}"] for level in range(2, 6)]
    return [x["last_feat"] if isinstance(x, dict) else x for x in found]


def _kept(found: Any, original_size: tuple[int, int]) -> np.ndarray:
    """Which detections have an area in the original image; Detectron2 drops the others."""
    boxes = found.pred_boxes.clone()
    boxes.scale(*(original_size[axis] / found.image_size[axis] for axis in (1, 0)))
    boxes.clip(original_size)
    return boxes.nonempty().numpy()


def _outcome(outputs: dict[str, Any], final: Any, kept: np.ndarray, i: int) -> Outcome:
    """The detections of one image of a batch, and the numbers behind them."""
    images, proposals = outputs["images"], outputs["rpn"][0]
    levels = partial(recording.levels, first=outputs["first_level"])
    objectness, deltas = outputs["rpn_head"]
    of_image, num_stages = rows(proposals, i), len(outputs["box_pool"])
    predicted = [outputs[f"box_predictor/{stage}"] for stage in range(num_stages)]
    logits = [x[of_image] for x, _ in predicted]
    scored = logits[0] if num_stages == 1 else outputs["mean"](torch.stack(logits))
    found = scored.numpy(), predicted[-1][1][of_image].numpy()
    class_logits, class_deltas = recording.background_first(*found)
    return Outcome(
        size=tuple(images.image_sizes[i]),
        original_size=tuple(final.image_size),
        canvas=tuple(images.tensor.shape[2:]),
        anchors=levels([boxes.tensor for boxes in outputs["anchors"]]),
        objectness=levels([channels_last(x[i]).flatten() for x in objectness]),
        deltas=levels([channels_last(x[i]).reshape(-1, 4) for x in deltas]),
        proposals=proposals[i].proposal_boxes.tensor.numpy(),
        rois=np.stack([boxes[i].tensor.numpy() for (_, boxes), _ in outputs["box_pool"]]),
        class_logits=class_logits,
        class_deltas=class_deltas,
        boxes=outputs["roi_heads"][i].pred_boxes.tensor.numpy()[kept],
        labels=final.pred_classes.numpy() + 1,
        scores=final.scores.numpy(),
        original_boxes=final.pred_boxes.tensor.numpy(),
        masks=_masks(outputs["roi_heads"][i], final, kept),
    )


def _masks(found: Any, final: Any, kept: np.ndarray) -> np.ndarray | None:
    """The probabilities behind the final masks, which Detectron2 does not return."""
    if not final.has("pred_masks"):
        return None
    drawn, boxes = found.pred_masks[torch.from_numpy(kept), 0], final.pred_boxes.tensor
    return recording.paste(mask_ops._do_paste_mask, drawn, boxes, final.pred_masks.numpy())
