"""torchvision's side of the comparison: its model with given weights, and what each of its stages computes.

The only file that imports torch and torchvision; they come with ``pip install 'maskrcnn-jax[parity]'``.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from maskrcnn_jax.config import ModelConfig
from maskrcnn_jax.modules.resnet import DEPTHS
from maskrcnn_jax.parity.records import Levels, Outcome, Stages


def _import_torchvision() -> Any:
    """torchvision with its compiled operators.

    A CUDA build of torchvision cannot load its operators beside a CPU build of torch; the reference data of the tests,
    in the folder MASKRCNN_JAX_SHARED, has stand-ins for the libraries that it misses.
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
    except RuntimeError:  # The operators could not be registered.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    shared = os.environ.get("MASKRCNN_JAX_SHARED")
    path = Path(shared).resolve() / "oracle" / "tv_real_ops.py" if shared else None
    if path is None or not path.is_file():
        raise ImportError("torchvision cannot load its compiled operators: its build does not fit that of torch")
    # By its path: a name would be looked for in the working directory first.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    stand_ins = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_ins)
    return stand_ins.load()


torchvision = _import_torchvision()

import torch  # noqa: E402  (torchvision loads its operators first)
from torchvision.models import detection  # noqa: E402
from torchvision.models.detection import anchor_utils, backbone_utils, faster_rcnn, mask_rcnn, rpn  # noqa: E402
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign  # noqa: E402

NORMS = {"none": None, "frozen_batch": FrozenBatchNorm2d, "batch": torch.nn.BatchNorm2d}


def build(
    config: ModelConfig, state: Mapping[str, np.ndarray], *, short_side: int = 800, max_long_side: int = 1333
) -> torch.nn.Module:
    """torchvision's model of this configuration with the weights of a state dict, in evaluation mode.

    The stages that the configuration freezes do not train. Every constant comes from the configuration.

    Raises:
        ValueError: torchvision has no such model.
        RuntimeError: The state dict does not fit; from torch, which names what is missing and unexpected.
    """
    _check(config)
    channels, ratios, pool = config.fpn_channels, config.rpn.aspect_ratios, config.roi.sampling_ratio
    anchors = anchor_utils.AnchorGenerator(
        tuple((int(size),) for size in config.rpn.anchor_sizes), (tuple(ratios),) * len(config.rpn.anchor_sizes)
    )
    model = detection.MaskRCNN(
        _backbone(config),
        min_size=short_side,
        max_size=max_long_side,
        image_mean=list(config.image_mean),
        image_std=list(config.image_std),
        rpn_anchor_generator=anchors,
        rpn_head=rpn.RPNHead(channels, len(ratios), conv_depth=config.rpn_head_convs),
        box_roi_pool=MultiScaleRoIAlign(list("0123"), config.roi.box_resolution, pool),
        box_head=_box_head(config),
        box_predictor=faster_rcnn.FastRCNNPredictor(config.box_head_features, config.num_classes),
        mask_roi_pool=MultiScaleRoIAlign(list("0123"), config.roi.mask_resolution, pool),
        mask_head=mask_rcnn.MaskRCNNHeads(
            channels, [config.mask_head_channels] * config.mask_head_convs, 1, NORMS[config.mask_head_norm]
        ),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(
            config.mask_head_channels, config.mask_head_channels, config.num_classes
        ),
        **_constants(config),
    )
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d | torch.nn.BatchNorm2d):
            module.eps = config.norm_eps
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()}, strict=True)
    return model.eval()


def _check(config: ModelConfig) -> None:
    """Refuses what `weights.torchvision` can name but torchvision cannot build."""
    expected = {"stem_channels": 64, "stride_in_1x1": False, "dtype": "float32"}
    wrong = [name for name, value in expected.items() if getattr(config, name) != value]
    wrong += ["roi.aligned"] if config.roi.aligned else []
    wrong += ["roi.pooling"] if config.roi.pooling != "align" else []
    wrong += ["box_head_layers"] if not config.box_head_convs and config.box_head_layers != 2 else []
    if wrong:
        raise ValueError(f"torchvision has no model with this setting of {', '.join(wrong)}")


def _backbone(config: ModelConfig) -> torch.nn.Module:
    resnet = getattr(torchvision.models, f"resnet{config.depth}")(norm_layer=NORMS[config.norm])
    parts = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    frozen = [*parts[: config.frozen_stages], *["bn1"][: config.frozen_stages]]
    for name, parameter in resnet.named_parameters():
        parameter.requires_grad_(name.split(".")[0] not in frozen)
    expansion = 4 if DEPTHS[config.depth][1] else 1
    return backbone_utils.BackboneWithFPN(
        resnet,
        {f"layer{i + 1}": str(i) for i in range(4)},
        [expansion * 64 * 2**i for i in range(4)],
        config.fpn_channels,
        norm_layer=NORMS[config.fpn_norm],
    )


def _box_head(config: ModelConfig) -> torch.nn.Module:
    channels, resolution, features = config.fpn_channels, config.roi.box_resolution, config.box_head_features
    if not config.box_head_convs:
        return faster_rcnn.TwoMLPHead(channels * resolution**2, features)
    return faster_rcnn.FastRCNNConvFCHead(
        (channels, resolution, resolution),
        [config.box_head_channels] * config.box_head_convs,
        [features] * config.box_head_layers,
        NORMS[config.box_head_norm],
    )


def _constants(config: ModelConfig) -> dict[str, Any]:
    """Counts and thresholds by torchvision's names."""
    rpn_config, roi, final = config.rpn, config.roi, config.detection
    return {
        "rpn_pre_nms_top_n_train": rpn_config.train_num_candidates,
        "rpn_pre_nms_top_n_test": rpn_config.test_num_candidates,
        "rpn_post_nms_top_n_train": rpn_config.train_num_proposals,
        "rpn_post_nms_top_n_test": rpn_config.test_num_proposals,
        "rpn_nms_thresh": rpn_config.nms_threshold,
        "rpn_fg_iou_thresh": rpn_config.positive_iou,
        "rpn_bg_iou_thresh": rpn_config.negative_iou,
        "rpn_batch_size_per_image": rpn_config.num_samples,
        "rpn_positive_fraction": rpn_config.positive_fraction,
        "rpn_score_thresh": rpn_config.score_threshold,
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
def predict(model: torch.nn.Module, pictures: Sequence[np.ndarray]) -> list[Stages]:
    """What the model computes for pictures, uint8 (H, W, 3), given to it as one batch: everything, per picture."""
    parts = {
        "transform": model.transform,
        "body": model.backbone.body,
        "fpn": model.backbone.fpn,
        "head": model.rpn.head,
        "anchors": model.rpn.anchor_generator,
        "rpn": model.rpn,
        "box_pool": model.roi_heads.box_roi_pool,
        "box_predictor": model.roi_heads.box_predictor,
        "roi_heads": model.roi_heads,
        "mask_pool": model.roi_heads.mask_roi_pool,
        "mask_predictor": model.roi_heads.mask_predictor,
    }
    outputs: dict[str, Any] = {}
    hooks = [part.register_forward_hook(_keep(outputs, name)) for name, part in parts.items()]
    predictions = model([torch.tensor(picture).permute(2, 0, 1).float() / 255 for picture in pictures])
    for hook in hooks:
        hook.remove()
    sizes = [picture.shape[:2] for picture in pictures]
    return [_stages(outputs, prediction, sizes[i], i) for i, prediction in enumerate(predictions)]


def _keep(outputs: dict[str, Any], name: str) -> Any:
    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        # The heads' result is a list of dictionaries that torchvision overwrites afterwards.
        outputs[name] = [dict(found) for found in output[0]] if name == "roi_heads" else output

    return hook


def _stages(outputs: dict[str, Any], prediction: dict, original_size: tuple[int, int], i: int) -> Stages:
    """One image of a batch."""
    images, (proposals, _) = outputs["transform"][0], outputs["rpn"]
    found = [detections["boxes"] for detections in outputs["roi_heads"]]
    of_proposals = slice(sum(map(len, proposals[:i])), sum(map(len, proposals[: i + 1])))
    of_found = slice(sum(map(len, found[:i])), sum(map(len, found[: i + 1])))
    class_logits, class_deltas = (x[of_proposals] for x in outputs["box_predictor"])
    objectness, deltas = outputs["head"]
    shapes = [x.shape[1:] for x in objectness]
    anchors = outputs["anchors"][i].split([int(np.prod(shape)) for shape in shapes])
    outcome = Outcome(
        size=tuple(images.image_sizes[i]),
        original_size=original_size,
        canvas=tuple(images.tensors.shape[2:]),
        anchors=_levels(anchors),
        objectness=_levels([_last(x[i]).flatten() for x in objectness]),
        deltas=_levels([_last(x[i]).reshape(-1, 4) for x in deltas]),
        proposals=proposals[i].numpy(),
        class_logits=class_logits.numpy(),
        class_deltas=class_deltas.reshape(len(class_deltas), -1, 4).numpy(),
        boxes=found[i].numpy(),
        labels=prediction["labels"].numpy(),
        scores=prediction["scores"].numpy(),
        original_boxes=prediction["boxes"].numpy(),
        masks=prediction["masks"][:, 0].numpy(),
    )
    return Stages(
        image=_last(images.tensors[i]).numpy(),
        backbone=_levels([_last(x[i]) for x in outputs["body"].values()]),
        pyramid=_levels([_last(x[i]) for x in outputs["fpn"].values()]),
        box_features=_last(outputs["box_pool"][of_proposals]).numpy(),
        mask_features=_last(outputs["mask_pool"][of_found]).numpy(),
        mask_logits=_of_class(_last(outputs["mask_predictor"][of_found]).numpy(), outcome.labels),
        outcome=outcome,
    )


def _of_class(logits: Float32[np.ndarray, "d m m k"], labels: Int[np.ndarray, " d"]) -> Float32[np.ndarray, "d m m"]:
    return np.take_along_axis(logits, labels.reshape(-1, 1, 1, 1), axis=3)[..., 0]


def _levels(arrays: Sequence[torch.Tensor]) -> Levels:
    return {level: array.numpy() for level, array in enumerate(arrays, start=2)}


def _last(x: torch.Tensor) -> torch.Tensor:
    """Channels last."""
    return x.movedim(-3, -1)
