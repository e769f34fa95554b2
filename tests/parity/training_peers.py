"""Training steps of Detectron2 and MMDetection as they run, with all that they drew.

The models are those of `maskrcnn_jax.parity.detectron2.peer` and `mmdetection.peer`, with the pixel
statistics of torchvision.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from maskrcnn_jax.data import rle
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.parity import reference  # noqa: F401  (loads torchvision's operators)
from tests.parity.peer_replay import Drawn

import torch  # isort: skip  (after the reference)

Arrays = dict[str, np.ndarray]


class PeerStep(NamedTuple):
    """One step of training. Lists have an entry for each image."""

    losses: dict[str, float]  # By our names.
    gradients: Arrays  # By the names of the library.
    anchors: list[Drawn]  # In the order level, row, column, ratio.
    # Among proposals and objects, in the order of the library. In a cascade that draws anew for
    # each stage, those of all images for the first stage come first, and so on.
    rois: list[Drawn]
    proposals: list[np.ndarray]  # [p, 4]
    mask_targets: np.ndarray  # Of the positive RoIs of all images, [p, 28, 28].
    # Outputs of the heads, each with its gradient: "rpn logits/0" for each level, ...
    outputs: Arrays
    output_gradients: Arrays


class Recorder:
    """Keeps tensors of a forward pass, to read their gradients after the backward pass."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}

    def keep(self, name: str, values: torch.Tensor | Sequence[torch.Tensor]) -> None:
        """Keeps a tensor, or those of all levels."""
        if isinstance(values, torch.Tensor):
            values.retain_grad()
            self.tensors[name] = values
        else:
            for level, value in enumerate(values):
                self.keep(f"{name}/{level}", value)

    @contextlib.contextmanager
    def watch(self, module: torch.nn.Module, *names: str) -> Iterator[None]:
        """Keeps the outputs of a module."""

        def hook(_: Any, __: Any, outputs: Any) -> None:
            values = outputs if len(names) > 1 else [outputs]
            for name, value in zip(names, values, strict=True):
                self.keep(name, value)

        handle = module.register_forward_hook(hook)
        yield
        handle.remove()

    def arrays(self) -> tuple[Arrays, Arrays]:
        """The tensors and their gradients; zeros where there is none."""
        outputs, gradients = {}, {}
        for name, x in self.tensors.items():
            outputs[name] = _array(x)
            gradients[name] = _array(torch.zeros_like(x) if x.grad is None else x.grad)
        return outputs, gradients


def _array(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().copy()


def _bitmaps(example: Example) -> np.ndarray:
    size = example.image.shape[:2]
    bitmaps = [rle.decode(mask, *size) for mask in example.masks]
    return np.array(bitmaps, np.uint8).reshape(-1, *size)


def _gradients(model: torch.nn.Module) -> Arrays:
    trained = {name: x for name, x in model.named_parameters() if x.requires_grad}
    return {name: _array(x.grad) for name, x in trained.items()}


# Detectron2.


DETECTRON2_LOSSES = {
    "loss_cls": "loss_classifier",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_loc": "loss_rpn_box_reg",
}


def detectron2_step(model: Any, examples: Sequence[Example], seed: int = 0) -> PeerStep:
    """One step of Detectron2, with bitmaps as masks."""
    modeling = "detectron2.modeling"
    rpn = importlib.import_module(f"{modeling}.proposal_generator.rpn")
    heads = importlib.import_module(f"{modeling}.roi_heads.roi_heads")
    masks = importlib.import_module(f"{modeling}.roi_heads.mask_head")
    events = importlib.import_module("detectron2.utils.events")
    num_classes = model.roi_heads.num_classes
    anchors, rois, proposals, targets = [], [], [], []
    recorder = Recorder()

    def sampled(original: Callable, found: list, background: int) -> Callable:
        def call(labels: torch.Tensor, *arguments: Any) -> Any:
            positive, negative = original(labels, *arguments)
            known = torch.where(labels == background, 0, torch.where(labels == -1, -1, 1))
            found.append(Drawn(*map(_array, (known, positive, negative))))
            return positive, negative

        return call

    def predicted(*arguments: Any) -> Any:
        found = original_proposals(*arguments)
        proposals.extend(_array(x.proposal_boxes.tensor) for x in found)
        return found

    def cut(logits: torch.Tensor, instances: Any, *arguments: Any) -> Any:
        recorder.keep("mask logits", logits)
        side = logits.shape[2]
        for x in (x for x in instances if len(x)):
            targets.append(_array(x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side)))
        return original_loss(logits, instances, *arguments)

    original_proposals = model.proposal_generator.predict_proposals
    original_loss = masks.mask_rcnn_loss
    torch.manual_seed(seed)
    model.train()
    model.zero_grad()
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in (
            (rpn, "subsample_labels", sampled(rpn.subsample_labels, anchors, 0)),
            (heads, "subsample_labels", sampled(heads.subsample_labels, rois, num_classes)),
            (model.proposal_generator, "predict_proposals", predicted),
            (masks, "mask_rcnn_loss", cut),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        rpn_head = model.proposal_generator.rpn_head
        stack.enter_context(recorder.watch(rpn_head, "rpn logits", "rpn deltas"))
        predictor = model.roi_heads.box_predictor
        if isinstance(predictor, torch.nn.ModuleList):
            predictor = predictor[0]  # Of a cascade.
        stack.enter_context(recorder.watch(predictor, "class logits", "class deltas"))
        stack.enter_context(events.EventStorage())
        losses = model([_to_detectron2(example) for example in examples])
        sum(losses.values()).backward()
    return PeerStep(
        {_of_stage(DETECTRON2_LOSSES, name): loss.item() for name, loss in losses.items()},
        _gradients(model),
        anchors,
        rois,
        proposals,
        _joined(targets),
        *recorder.arrays(),
    )


def _joined(targets: Sequence[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(targets) if targets else np.zeros((0, 28, 28))
    return joined.astype(np.float32)


def _of_stage(names: dict[str, str], name: str) -> str:
    """Our name of a loss, which may belong to a stage of a cascade: ``loss_cls_stage1``."""
    loss, mark, stage = name.partition("_stage")
    return names[loss] + mark + stage


def _to_detectron2(example: Example) -> dict[str, Any]:
    structures = importlib.import_module("detectron2.structures")
    size = example.image.shape[:2]
    instances = structures.Instances(size)
    instances.gt_boxes = structures.Boxes(torch.from_numpy(example.boxes))
    instances.gt_classes = torch.from_numpy(example.classes).long() - 1
    instances.gt_masks = structures.BitMasks(torch.from_numpy(_bitmaps(example)).bool())
    pixels = np.ascontiguousarray(example.image.transpose(2, 0, 1))
    return {"image": torch.from_numpy(pixels), "instances": instances}


# MMDetection.


MMDETECTION_LOSSES = {
    "loss_cls": "loss_classifier",
    "loss_bbox": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_bbox": "loss_rpn_box_reg",
}


def mmdetection_step(model: Any, examples: Sequence[Example], seed: int = 0) -> PeerStep:
    """One step of MMDetection, with bitmaps as masks."""
    anchors, rois, proposals, targets = [], [], [], []
    recorder, heads = Recorder(), model.roi_head

    def sampled(original: Callable, found: list) -> Callable:
        def call(assigned: Any, priors: Any, *arguments: Any, **settings: Any) -> Any:
            labels = _array(assigned.gt_inds).clip(max=1)
            if found is rois:  # The objects come first, each belongs to itself.
                if len(proposals) < len(examples):  # The first stage.
                    proposals.append(_array(priors.priors))
                labels = np.concatenate([np.ones(assigned.num_gts, int), labels])
            drawn = original(assigned, priors, *arguments, **settings)
            found.append(Drawn(labels, _array(drawn.pos_inds), _array(drawn.neg_inds)))
            return drawn

        return call

    def cut(*arguments: Any, **settings: Any) -> torch.Tensor:
        found = original_targets(*arguments, **settings)
        targets.append(_array(found))
        return found

    is_cascade = isinstance(heads.bbox_head, torch.nn.ModuleList)
    samplers = heads.bbox_sampler if is_cascade else [heads.bbox_sampler]
    box_head = heads.bbox_head[0] if is_cascade else heads.bbox_head
    mask_head = heads.mask_head[0] if is_cascade else heads.mask_head
    original_targets = mask_head.get_targets
    torch.manual_seed(seed)
    model.train()
    model.zero_grad()
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in (
            (model.rpn_head.sampler, "sample", sampled(model.rpn_head.sampler.sample, anchors)),
            *((x, "sample", sampled(x.sample, rois)) for x in samplers),
            (mask_head, "get_targets", cut),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        stack.enter_context(recorder.watch(model.rpn_head, "rpn logits", "rpn deltas"))
        stack.enter_context(recorder.watch(box_head, "class logits", "class deltas"))
        stack.enter_context(recorder.watch(mask_head, "mask logits"))
        total, logs = model.parse_losses(model.loss(**_to_mmdetection(model, examples)))
        total.backward()
    return PeerStep(
        _mmdetection_losses(logs),
        _gradients(model),
        anchors,
        rois,
        proposals,
        _joined(targets),
        *recorder.arrays(),
    )


def _mmdetection_losses(logs: dict[str, torch.Tensor]) -> dict[str, float]:
    """The losses by our names; those of a stage of a cascade are called ``s1.loss_cls``."""
    losses = {}
    for key, value in logs.items():
        stage, _, name = key.rpartition(".")
        if name in MMDETECTION_LOSSES:
            end = f"_stage{stage[1:]}" if stage else ""
            losses[MMDETECTION_LOSSES[name] + end] = value.item()
    return losses


def _to_mmdetection(model: Any, examples: Sequence[Example]) -> dict[str, Any]:
    sample_type = importlib.import_module("mmdet.structures").DetDataSample
    masks = importlib.import_module("mmdet.structures.mask")
    instance_data = importlib.import_module("mmengine.structures").InstanceData
    images, samples = [], []
    for example in examples:
        size = example.image.shape[:2]
        pixels = np.ascontiguousarray(example.image[:, :, ::-1].transpose(2, 0, 1))
        images.append(torch.from_numpy(pixels))
        instances = instance_data(
            bboxes=torch.from_numpy(example.boxes),
            labels=torch.from_numpy(example.classes).long() - 1,
            masks=masks.BitmapMasks(_bitmaps(example), *size),
        )
        place = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
        sample = sample_type(metainfo=place, gt_instances=instances)
        samples.append(sample)
    data = {"inputs": images, "data_samples": samples}
    found = model.data_preprocessor(data, training=True)
    return {"batch_inputs": found["inputs"], "batch_data_samples": found["data_samples"]}
