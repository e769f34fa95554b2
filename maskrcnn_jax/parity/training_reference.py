"""torchvision's side of the training comparison: steps of SGD, with everything that its samplers drew."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np

from maskrcnn_jax.config import OptimizerConfig
from maskrcnn_jax.data import coco
from maskrcnn_jax.data.coco import Example
from maskrcnn_jax.parity import reference  # noqa: F401  (loads torchvision's operators)
from maskrcnn_jax.parity.training_replay import Step

import torch  # isort: skip  (after the reference)
from torchvision.models.detection import roi_heads  # isort: skip


def steps(
    model: torch.nn.Module, batches: Iterable[Sequence[Example]], config: OptimizerConfig, *, seed: int = 0
) -> Iterator[Step]:
    """Trains torchvision's model in place, a step of SGD at a constant rate for each batch.

    Args:
        model: From `reference.build`.
        batches: Pictures before resizing, with their objects.
        config: The learning rate, momentum and weight decay are read.
        seed: Of torchvision's samplers.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, config.learning_rate, config.momentum, weight_decay=config.weight_decay)
    torch.manual_seed(seed)
    model.train()
    for examples in batches:
        optimizer.zero_grad()
        step = _forward_and_backward(model, examples)
        optimizer.step()
        yield step
    model.eval()


def inputs(examples: Sequence[Example]) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Pictures and their objects as torchvision's models take them."""
    pictures = [torch.tensor(example.image).permute(2, 0, 1).float() / 255 for example in examples]
    return pictures, [_target(example) for example in examples]


def state_dict(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Weights and statistics of torchvision's model as they are now, copied."""
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def _forward_and_backward(model: torch.nn.Module, examples: Sequence[Example]) -> Step:
    """The losses and gradients of one batch, and what was drawn for them."""
    watched = {
        "anchors": (model.rpn, "fg_bg_sampler"),
        "rois": (model.roi_heads, "select_training_samples"),
    }
    calls: dict[str, tuple[tuple[Any, ...], Any]] = {}
    with ExitStack() as stack:
        for key, (owner, name) in watched.items():
            stack.enter_context(mock.patch.object(owner, name, _recorded(getattr(owner, name), key, calls)))
        losses = model(*inputs(examples))
    sum(losses.values()).backward()
    gradients = {name: x.grad.numpy().copy() for name, x in model.named_parameters() if x.requires_grad}
    losses = {name: loss.item() for name, loss in losses.items()}
    return Step(**_drawn(calls), losses=losses, gradients=gradients)


def _recorded(function: Callable[..., Any], key: str, calls: dict[str, Any]) -> Callable[..., Any]:
    """The function, which also writes down its arguments and its result."""

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        calls[key] = arguments, result
        return result

    return call


def _drawn(calls: dict[str, tuple[tuple[Any, ...], Any]]) -> dict[str, list[np.ndarray]]:
    """The fields of a `Step` that the samplers decide."""
    (labels,), (positive, negative) = calls["anchors"]
    (_, targets), (rois, instances, classes, _) = calls["rois"]
    masks = [
        roi_heads.project_masks_on_boxes(target["masks"], boxes[label > 0], matched[label > 0], 28)
        for target, boxes, label, matched in zip(targets, rois, classes, instances, strict=True)
    ]
    tensors = {
        "anchor_labels": labels,
        "positive_anchors": [torch.where(drawn)[0] for drawn in positive],
        "negative_anchors": [torch.where(drawn)[0] for drawn in negative],
        "rois": rois,
        "roi_classes": classes,
        "roi_instances": instances,
        "mask_targets": masks,
    }
    return {name: [x.detach().numpy().copy() for x in values] for name, values in tensors.items()}


def _target(example: Example) -> dict[str, torch.Tensor]:
    """The objects of a picture as torchvision takes them."""
    size = example.image.shape[:2]
    masks = np.zeros((len(example.boxes), *size), np.uint8)
    for slot, mask in zip(masks, example.masks, strict=True):
        slot[:] = coco.decode_mask(mask, *size)
    classes = torch.from_numpy(example.classes).long()
    return {"boxes": torch.from_numpy(example.boxes), "labels": classes, "masks": torch.from_numpy(masks)}
