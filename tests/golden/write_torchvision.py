"""Records what torchvision's Mask R-CNN computes, stage by stage; run as a script, writes ``torchvision.npz`` anew.

    python -m tests.golden.write_torchvision

Needs torch and torchvision. The live comparison uses the same functions.
"""

import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from maskrcnn_jax.config import ModelConfig
from tests.golden import recipe

MASKS = 12  # Detections per image whose masks are kept.
GRADIENTS = (
    "rpn.head.conv.0.0.weight",
    "roi_heads.box_head.fc6.weight",
    "roi_heads.mask_predictor.conv5_mask.weight",
    "backbone.body.layer4.0.conv1.weight",
)

Stages = dict[str, list[np.ndarray]]  # An array per image, or per level the whole batch.


def import_torchvision():
    """torchvision with its compiled operators; a CPU-only torch may need the stand-ins of the reference data for it."""
    try:
        import torchvision

        if torchvision.extension._has_ops():
            return torchvision
    except RuntimeError:  # The operators could not be registered.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    sys.path.insert(0, os.path.join(os.environ["MASKRCNN_JAX_SHARED"], "oracle"))
    import tv_real_ops

    return tv_real_ops.load()


def build(config: ModelConfig, short_side: int, max_long_side: int) -> torch.nn.Module:
    """torchvision's model of this configuration, with frozen batch norm and the weights of the recipe."""
    import_torchvision()
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    layers = 5 - config.frozen_stages
    backbone = resnet_fpn_backbone(
        backbone_name=f"resnet{config.depth}", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=layers
    )
    model = MaskRCNN(
        backbone,
        num_classes=config.num_classes,
        min_size=short_side,
        max_size=max_long_side,
        rpn_pre_nms_top_n_train=config.rpn.train_num_candidates,
        rpn_pre_nms_top_n_test=config.rpn.test_num_candidates,
        rpn_post_nms_top_n_train=config.rpn.train_num_proposals,
        rpn_post_nms_top_n_test=config.rpn.test_num_proposals,
        box_batch_size_per_image=config.roi.num_samples,
        box_detections_per_img=config.detection.num_detections,
    )
    state = {name: torch.from_numpy(array) for name, array in recipe.state_dict(config).items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def tensors(pictures: list[np.ndarray]) -> list[torch.Tensor]:
    """uint8 pictures as torchvision takes them: float32 in [0, 1], channels first."""
    return [torch.tensor(picture).permute(2, 0, 1).float() / 255 for picture in pictures]


@torch.no_grad()
def stages(model: torch.nn.Module, pictures: list[np.ndarray]) -> Stages:
    """Every stage of inference on a batch; maps with channels last, anchors by level, row, column, ratio."""
    images, _ = model.transform(tensors(pictures))
    body = model.backbone.body(images.tensors)
    pyramid = model.backbone.fpn(body)
    levels = list(pyramid.values())
    logits, deltas = model.rpn.head(levels)
    proposals, _ = model.rpn(images, pyramid)
    heads = model.roi_heads
    pooled = heads.box_roi_pool(pyramid, proposals, images.image_sizes)
    class_logits, class_deltas = heads.box_predictor(heads.box_head(pooled))
    counts = [len(boxes) for boxes in proposals]
    detections, _ = heads(pyramid, proposals, images.image_sizes)
    per_image = {
        "proposals": proposals,
        "pooled": [x.permute(0, 2, 3, 1) for x in pooled.split(counts)],
        "class_logits": class_logits.split(counts),
        "class_deltas": [x.reshape(len(x), -1, 4) for x in class_deltas.split(counts)],
        "boxes": [found["boxes"] for found in detections],
        "labels": [found["labels"] for found in detections],
        "scores": [found["scores"] for found in detections],
        "masks": [found["masks"][:, 0] for found in detections],
    }
    per_level = {
        "input": [images.tensors.permute(0, 2, 3, 1)],
        "C": [x.permute(0, 2, 3, 1) for x in body.values()],
        "P": [x.permute(0, 2, 3, 1) for x in levels],
        "logits": [x.permute(0, 2, 3, 1).flatten(1) for x in logits],
        "deltas": [x.permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in deltas],
    }
    return {name: [x.numpy() for x in arrays] for name, arrays in (per_level | per_image).items()}


def training(model: torch.nn.Module, examples: list[recipe.Example]) -> dict[str, object]:
    """Losses and gradients of a training step, and everything that the samplers decided in it."""
    from torchvision.models.detection import roi_heads

    record: dict[str, object] = {}

    def recorded(owner, name: str):
        function = getattr(owner, name)

        def record_result(*arguments):
            result = function(*arguments)
            record.setdefault(name, []).append((arguments, result))
            return result

        return mock.patch.object(owner, name, record_result)

    targets = [
        {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(classes).long(), "masks": torch.from_numpy(masks)}
        for _, masks, boxes, classes in examples
    ]
    for target in targets:
        target["masks"] = target["masks"].to(torch.uint8)
    model.train()
    torch.manual_seed(0)
    with (
        recorded(model.rpn, "assign_targets_to_anchors"),
        recorded(model.rpn, "fg_bg_sampler"),
        recorded(model.roi_heads, "assign_targets_to_proposals"),
        recorded(model.roi_heads, "select_training_samples"),
        recorded(roi_heads, "project_masks_on_boxes"),
    ):
        losses = model(tensors([example.image for example in examples]), targets)
    sum(losses.values()).backward()
    model.eval()
    return _training_arrays(model, losses, record)


def _training_arrays(model: torch.nn.Module, losses: dict[str, torch.Tensor], record: dict) -> dict[str, object]:
    (anchors, targets), (anchor_labels, matched_boxes) = record["assign_targets_to_anchors"][0]
    _, (positive, negative) = record["fg_bg_sampler"][0]
    _, (rois, instances, classes, roi_deltas) = record["select_training_samples"][0]
    (candidates, *_), (candidate_instances, candidate_classes) = record["assign_targets_to_proposals"][0]
    anchor_deltas = model.rpn.box_coder.encode(matched_boxes, anchors)
    arrays = {
        "truth": [target["boxes"] for target in targets],
        "anchors": anchors,
        "anchor_labels": anchor_labels,
        "anchor_deltas": anchor_deltas,
        "positive_anchors": [mask.nonzero()[:, 0] for mask in positive],
        "negative_anchors": [mask.nonzero()[:, 0] for mask in negative],
        "candidates": candidates,
        "candidate_instances": candidate_instances,
        "candidate_classes": candidate_classes,
        "rois": rois,
        "roi_classes": classes,
        "roi_instances": instances,
        "roi_deltas": roi_deltas,
        "mask_targets": [result for _, result in record["project_masks_on_boxes"]],
    }
    gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    return {name: [x.detach().numpy() for x in value] for name, value in arrays.items()} | {
        "losses": {name: loss.item() for name, loss in losses.items()},
        "gradients": gradients,
    }


def main() -> None:
    config, examples = recipe.small_config(), recipe.examples()
    model = build(config, recipe.SHORT_SIDE, recipe.MAX_LONG_SIDE)
    arrays = {}
    for name, values in stages(model, [example.image for example in examples]).items():
        whole = name in ("proposals", "boxes", "labels", "scores")
        for i, value in enumerate(values):
            value = value[:MASKS] if name == "masks" else value
            arrays[f"{name}_{i}"] = value if whole or name == "masks" else recipe.sample(value)
    record = training(model, examples)
    for name in ("truth", "positive_anchors", "negative_anchors", "rois", "roi_classes", "roi_instances"):
        arrays |= {f"{name}_{i}": value for i, value in enumerate(record[name])}
    arrays |= {f"mask_targets_{i}": value for i, value in enumerate(record["mask_targets"])}
    arrays |= {name: np.float32(loss) for name, loss in record["losses"].items()}
    arrays |= {f"gradient_{name}": recipe.sample(record["gradients"][name]) for name in GRADIENTS}
    np.savez_compressed(Path(__file__).parent / "torchvision.npz", **arrays)


if __name__ == "__main__":
    main()
