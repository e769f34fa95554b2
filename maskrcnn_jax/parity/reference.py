"""torchvision's side of the comparison: builds its model, and records the results of its stages.

Importing this module loads torch and torchvision (``pip install 'maskrcnn-jax[parity]'``).
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

from maskrcnn_jax.config import Config
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig
from maskrcnn_jax.modules.backbones import channels as channels_of
from maskrcnn_jax.parity.recording import (
    channels_last,
    check_rules,
    levels,
    of_class,
    recorded,
    rows,
)
from maskrcnn_jax.parity.records import Outcome, Peer, Stages
from maskrcnn_jax.weights import torchvision as weights


def _import_torchvision() -> Any:
    """Imports torchvision with its compiled operators.

    A CUDA build of torchvision cannot load its operators beside a CPU build of torch. The folder
    MASKRCNN_JAX_SHARED with the tests' reference data has stand-ins for the missing libraries.
    """
    try:
        importlib.import_module("torch")
        torchvision = importlib.import_module("torchvision")
        if torchvision.extension._has_ops():
            return torchvision
    except ImportError as error:
        raise ImportError(
            f"comparing needs torch and torchvision: pip install 'maskrcnn-jax[parity]' ({error})"
        ) from error
    except RuntimeError:  # torchvision could not register its operators.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    shared = os.environ.get("MASKRCNN_JAX_SHARED")
    path = Path(shared).resolve() / "oracle" / "tv_real_ops.py" if shared else None
    if path is None or not path.is_file():
        raise ImportError(
            "torchvision cannot load its compiled operators: its build does not fit that of torch"
        )
    # Load the module by its path: Python would search for a name in the working directory first.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    stand_ins = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_ins)
    return stand_ins.load()


torchvision = _import_torchvision()

import torch  # noqa: E402  (torchvision loads its operators first)
from torchvision.models import convnext, detection  # noqa: E402
from torchvision.models.detection import (  # noqa: E402
    anchor_utils,
    backbone_utils,
    faster_rcnn,
    mask_rcnn,
    rpn,
)
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign  # noqa: E402

# In detection a fixed norm is a frozen one; torchvision trains none with fixed statistics.
NORMS = {"none": None, "batch": torch.nn.BatchNorm2d}
NORMS |= dict.fromkeys(("frozen_batch", "fixed_batch"), FrozenBatchNorm2d)
# The settings that torchvision's functions do not have.
RULES = {
    "model.box_head.classifier": "softmax",
    "model.limit_shrinking": False,
    "model.rpn.round_anchors": True,
    "model.rpn.anchor_stride": "canvas",
    "model.rpn.min_box_size": 1e-3,
    "model.roi.level_rule": "torchvision",
    "detection.min_box_size": 1e-2,
    "detection.clip_to_original": False,
    "detection.paste": "expanded",
    "data.size_rule": "torchvision",
    "data.resize": "bilinear",
}
MAX_BOXES_WITH_OFFSETS = 1000


def peer(
    config: Config, variables: Mapping[str, Any], *, short_side: int, max_long_side: int
) -> Peer:
    """torchvision with the weights of a model; arguments as in `JaxModel`.

    Raises:
        ValueError: torchvision has no such model.
    """
    check_rules(config, RULES, "torchvision")
    state = weights.to_state_dict(variables, config.model)
    return as_peer(build(config, state, short_side=short_side, max_long_side=max_long_side))


def as_peer(model: torch.nn.Module) -> Peer:
    """A model of torchvision as a peer."""
    return Peer("torchvision", model, partial(predict, model), MAX_BOXES_WITH_OFFSETS)


def build(
    config: Config,
    state: Mapping[str, np.ndarray],
    *,
    short_side: int = 800,
    max_long_side: int = 1333,
) -> torch.nn.Module:
    """Builds torchvision's model of a configuration with the weights of a state dict.

    Without a mask head the model is a Faster R-CNN. The model is in evaluation mode, its stages
    are frozen as configured, and every constant comes from the configuration.

    Args:
        config: The model and the detection settings.
        state: The weights by torchvision's names.
        short_side: As in `JaxModel`.
        max_long_side: As in `JaxModel`.

    Raises:
        ValueError: torchvision has no such model.
        RuntimeError: The state dict does not fit. The message names missing and unexpected arrays.
    """
    network = config.model
    weights.check_can_build(network)
    if network.dtype != "float32":
        raise ValueError(f"torchvision computes in float32, not in {network.dtype}")
    parts = _parts(network)
    if network.mask_head is not None:
        parts |= _mask_parts(network)
    build_model = detection.FasterRCNN if network.mask_head is None else detection.MaskRCNN
    model = build_model(
        _backbone(network),
        min_size=short_side,
        max_size=max_long_side,
        image_mean=list(network.image_mean),
        image_std=list(network.image_std),
        **parts,
        **_constants(config),
    )
    _set_norm_eps(model, network)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def _parts(config: ModelConfig) -> dict[str, Any]:
    """torchvision's arguments for the anchors and heads of a Faster R-CNN."""
    ratios = tuple(config.rpn.aspect_ratios)
    sizes = tuple((int(size),) for size in config.rpn.anchor_sizes)
    return {
        "rpn_anchor_generator": anchor_utils.AnchorGenerator(sizes, (ratios,) * len(sizes)),
        "rpn_head": rpn.RPNHead(config.fpn.channels, len(ratios), conv_depth=config.rpn.num_convs),
        "box_roi_pool": _pool(config, config.box_head.resolution),
        "box_head": _box_head(config),
        "box_predictor": faster_rcnn.FastRCNNPredictor(
            config.box_head.features, config.num_classes
        ),
    }


def _mask_parts(config: ModelConfig) -> dict[str, Any]:
    """torchvision's further arguments for a Mask R-CNN."""
    head = config.mask_head
    widths = [head.channels] * head.num_convs
    return {
        "mask_roi_pool": _pool(config, head.resolution),
        "mask_head": mask_rcnn.MaskRCNNHeads(config.fpn.channels, widths, 1, NORMS[head.norm]),
        "mask_predictor": mask_rcnn.MaskRCNNPredictor(
            head.channels, head.channels, config.num_classes
        ),
    }


def _pool(config: ModelConfig, resolution: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(list("0123"), resolution, config.roi.sampling_ratio)


def _set_norm_eps(model: torch.nn.Module, config: ModelConfig) -> None:
    parts = {
        "backbone.body.": config.backbone,
        "backbone.fpn.": config.fpn,
        "roi_heads.box_head.": config.box_head,
        "roi_heads.mask_head.": config.mask_head,
    }
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d | torch.nn.BatchNorm2d):
            (part,) = (part for prefix, part in parts.items() if name.startswith(prefix))
            module.eps = part.norm_eps


def _convnext(config: ModelConfig) -> torch.nn.Module:
    settings, widths = config.backbone, channels_of(config.backbone)
    sizes = [
        convnext.CNBlockConfig(width, widths.get(level + 1), depth)
        for (level, width), depth in zip(widths.items(), settings.depths, strict=True)
    ]
    network = convnext.ConvNeXt(sizes, settings.drop_path)
    return backbone_utils.BackboneWithFPN(
        network.features,
        {str(2 * i + 1): str(i) for i in range(4)},
        list(widths.values()),
        config.fpn.channels,
        norm_layer=NORMS[config.fpn.norm],
    )


def _backbone(config: ModelConfig) -> torch.nn.Module:
    settings = config.backbone
    if isinstance(settings, ConvNeXtConfig):
        return _convnext(config)
    build_resnet = getattr(torchvision.models, f"resnet{settings.depth}")
    widths = {"groups": settings.groups, "width_per_group": settings.width_per_group}
    resnet = build_resnet(norm_layer=NORMS[settings.norm], **widths)
    stages = [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]
    frozen = [name for stage in stages[: settings.frozen_stages] for name in stage]
    for name, parameter in resnet.named_parameters():
        parameter.requires_grad_(name.split(".")[0] not in frozen)
    return backbone_utils.BackboneWithFPN(
        resnet,
        {f"layer{i + 1}": str(i) for i in range(4)},
        list(channels_of(settings).values()),
        config.fpn.channels,
        norm_layer=NORMS[config.fpn.norm],
    )


def _box_head(config: ModelConfig) -> torch.nn.Module:
    channels, head = config.fpn.channels, config.box_head
    if not head.num_convs:
        return faster_rcnn.TwoMLPHead(channels * head.resolution**2, head.features)
    return faster_rcnn.FastRCNNConvFCHead(
        (channels, head.resolution, head.resolution),
        [head.channels] * head.num_convs,
        [head.features] * head.num_layers,
        NORMS[head.norm],
    )


def _constants(config: Config) -> dict[str, Any]:
    """torchvision's arguments for counts and thresholds."""
    proposing, roi, final = config.model.rpn, config.model.roi, config.detection
    return {
        "rpn_pre_nms_top_n_train": proposing.num_candidates,
        "rpn_pre_nms_top_n_test": final.num_candidates,
        "rpn_post_nms_top_n_train": proposing.num_proposals,
        "rpn_post_nms_top_n_test": final.num_proposals,
        "rpn_nms_thresh": proposing.nms_threshold,
        "rpn_fg_iou_thresh": proposing.positive_iou,
        "rpn_bg_iou_thresh": proposing.negative_iou,
        "rpn_batch_size_per_image": proposing.num_samples,
        "rpn_positive_fraction": proposing.positive_fraction,
        "rpn_score_thresh": proposing.score_threshold,
        "box_score_thresh": final.score_threshold,
        "box_nms_thresh": final.nms_threshold,
        "box_detections_per_img": final.num_detections,
        "box_fg_iou_thresh": roi.positive_iou,
        "box_bg_iou_thresh": roi.positive_iou,
        "box_batch_size_per_image": roi.num_samples,
        "box_positive_fraction": roi.positive_fraction,
        "bbox_reg_weights": tuple(roi.box_weights),
    }


@torch.no_grad()
def predict(model: torch.nn.Module, images: Sequence[np.ndarray]) -> list[Stages]:
    """Runs the model on a batch of images, uint8 [h, w, 3]; returns the results of each image."""
    heads = model.roi_heads
    parts = {
        "transform": model.transform,
        "body": model.backbone.body,
        "fpn": model.backbone.fpn,
        "head": model.rpn.head,
        "anchors": model.rpn.anchor_generator,
        "rpn": model.rpn,
        "box_pool": heads.box_roi_pool,
        "box_predictor": heads.box_predictor,
        "roi_heads": heads,
    }
    if heads.has_mask():
        parts |= {"mask_pool": heads.mask_roi_pool, "mask_predictor": heads.mask_predictor}
    # torchvision later overwrites the dicts that the heads return.
    copies = {"roi_heads": lambda output: [dict(found) for found in output[0]]}
    inputs = [torch.tensor(image).permute(2, 0, 1).float() / 255 for image in images]
    with recorded(parts, copies) as outputs:
        predictions = model(inputs)
    sizes = [image.shape[:2] for image in images]
    return [_stages(outputs, prediction, sizes[i], i) for i, prediction in enumerate(predictions)]


def _stages(
    outputs: dict[str, Any], prediction: dict, original_size: tuple[int, int], i: int
) -> Stages:
    """The results for one image of a batch."""
    images, (proposals, _) = outputs["transform"][0], outputs["rpn"]
    found = [detections["boxes"] for detections in outputs["roi_heads"]]
    of_proposals, of_found = rows(proposals, i), rows(found, i)
    mask_features = mask_logits = None
    if "masks" in prediction:
        mask_features = channels_last(outputs["mask_pool"][of_found]).numpy()
        logits = channels_last(outputs["mask_predictor"][of_found]).numpy()
        mask_logits = of_class(logits, prediction["labels"].numpy())
    return Stages(
        image=channels_last(images.tensors[i]).numpy(),
        backbone=levels([channels_last(x[i]) for x in outputs["body"].values()]),
        pyramid=levels([channels_last(x[i]) for x in outputs["fpn"].values()]),
        box_features=channels_last(outputs["box_pool"][of_proposals]).numpy(),
        mask_features=mask_features,
        mask_logits=mask_logits,
        outcome=_outcome(outputs, prediction, original_size, i),
    )


def _outcome(
    outputs: dict[str, Any], prediction: dict, original_size: tuple[int, int], i: int
) -> Outcome:
    """The detections of one image of a batch, and the numbers behind them."""
    images, (proposals, _) = outputs["transform"][0], outputs["rpn"]
    class_logits, class_deltas = (x[rows(proposals, i)] for x in outputs["box_predictor"])
    objectness, deltas = outputs["head"]
    counts = [int(np.prod(x.shape[1:])) for x in objectness]
    masks = prediction["masks"][:, 0].numpy() if "masks" in prediction else None
    return Outcome(
        size=tuple(images.image_sizes[i]),
        original_size=original_size,
        canvas=tuple(images.tensors.shape[2:]),
        anchors=levels(outputs["anchors"][i].split(counts)),
        objectness=levels([channels_last(x[i]).flatten() for x in objectness]),
        deltas=levels([channels_last(x[i]).reshape(-1, 4) for x in deltas]),
        proposals=proposals[i].numpy(),
        rois=proposals[i].numpy()[None],
        class_logits=class_logits.numpy(),
        class_deltas=class_deltas.reshape(len(class_deltas), -1, 4).numpy(),
        boxes=outputs["roi_heads"][i]["boxes"].numpy(),
        labels=prediction["labels"].numpy(),
        scores=prediction["scores"].numpy(),
        original_boxes=prediction["boxes"].numpy(),
        masks=masks,
    )
