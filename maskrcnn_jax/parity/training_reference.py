"""torchvision's side of the training comparison: takes steps of SGD, and records the samples."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np

from maskrcnn_jax.config import OptimizerConfig
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.parity import reference  # noqa: F401  (loads torchvision's operators)
from maskrcnn_jax.parity.training_replay import Step

import torch  # isort: skip  (after the reference)
from torchvision.models.detection import roi_heads  # isort: skip


def steps(
    model: torch.nn.Module,
    batches: Iterable[Sequence[Example]],
    config: OptimizerConfig,
    *,
    seed: int = 0,
) -> Iterator[Step]:
    """Trains torchvision's model in place, with one step of SGD at a constant rate per batch.

    Args:
        model: A model of `reference.build`.
        batches: Images before resizing, with their objects.
        config: The learning rate, momentum and weight decay.
        seed: The seed of torchvision's samplers.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        trained, config.learning_rate, config.momentum, weight_decay=config.weight_decay
    )
    torch.manual_seed(seed)
    model.train()
    for examples in batches:
        optimizer.zero_grad()
        step = _forward_and_backward(model, examples)
        optimizer.step()
        yield step
    model.eval()


def inputs(
    examples: Sequence[Example],
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Converts images and their objects to the inputs of torchvision's models."""
    images = [torch.tensor(example.image).permute(2, 0, 1).float() / 255 for example in examples]
    return images, [_target(example) for example in examples]


def state_dict(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """A copy of the current weights and statistics of torchvision's model."""
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def _forward_and_backward(model: torch.nn.Module, examples: Sequence[Example]) -> Step:
    """Computes the losses, gradients and samples of one batch."""
    recorded = {
        "anchors": (model.rpn, "fg_bg_sampler"),
        "rois": (model.roi_heads, "select_training_samples"),
    }
    calls: dict[str, tuple[tuple[Any, ...], Any]] = {}
    with ExitStack() as stack:
        for key, (owner, name) in recorded.items():
            wrapped = _recorded(getattr(owner, name), key, calls)
            stack.enter_context(mock.patch.object(owner, name, wrapped))
        losses = model(*inputs(examples))
    sum(losses.values()).backward()
    trained = {name: x for name, x in model.named_parameters() if x.requires_grad}
    return Step(
        **_drawn(calls, has_masks=model.roi_heads.has_mask()),
        losses={name: loss.item() for name, loss in losses.items()},
        gradients={name: x.grad.numpy().copy() for name, x in trained.items()},
    )


def _recorded(function: Callable[..., Any], key: str, calls: dict[str, Any]) -> Callable[..., Any]:
    """Wraps a function to record its arguments and its result."""

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        calls[key] = arguments, result
        return result

    return call


def _drawn(
    calls: dict[str, tuple[tuple[Any, ...], Any]], *, has_masks: bool
) -> dict[str, list[np.ndarray]]:
    """The fields of a `Step` with the samples."""
    (labels,), (positive, negative) = calls["anchors"]
    (_, targets), (rois, instances, classes, _) = calls["rois"]
    masks = []
    for i, target in enumerate(targets if has_masks else []):
        is_positive = classes[i] > 0
        matched, boxes = instances[i][is_positive], rois[i][is_positive]
        masks.append(roi_heads.project_masks_on_boxes(target["masks"], boxes, matched, 28))
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
    """Converts the objects of an image to torchvision's targets."""
    size = example.image.shape[:2]
    masks = np.zeros((len(example.boxes), *size), np.uint8)
    for slot, mask in zip(masks, example.masks, strict=True):
        slot[:] = rle.decode(mask, *size)
    return {
        "boxes": torch.from_numpy(example.boxes),
        "labels": torch.from_numpy(example.classes).long(),
        "masks": torch.from_numpy(masks),
    }
