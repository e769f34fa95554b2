"""torchvision's side of a recipe: the same start, images and learning rates as ours, resumable.

The initial weights, the batches with all their augmentation, and the learning rate of each step
come from our code; the model, its losses, the gradients and SGD are torchvision's and PyTorch's.
"""

import contextlib
import copy
import os
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax import evaluation, training
from maskrcnn_jax.cli.start import Start, prepare
from maskrcnn_jax.cli.training_loop import is_due
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.pipeline import train_batches
from maskrcnn_jax.parity import reference
from maskrcnn_jax.pasting import ImageDetections
from maskrcnn_jax.runs.metrics import MetricsLog
from maskrcnn_jax.structures import Batch, Bitmaps
from maskrcnn_jax.weights import torchvision

import torch  # isort: skip  (after the reference)

CHECKPOINT = "torchvision.pt"


def train(config: Config, workdir: Path) -> evaluation.Evaluation:
    """Takes the remaining steps of a recipe with torchvision, and evaluates the model.

    The state is saved every ``config.save_every`` steps; the same call goes on from there with the
    same batches and samples.
    """
    if config.optimizer.name != "sgd" or config.optimizer.average_decay is not None:
        raise ValueError("torchvision's side has SGD without an average of the weights")
    if config.data.mask_store != "full":
        raise ValueError('torchvision needs bitmaps: data.mask_store must be "full"')
    start = prepare(config, workdir)
    model = build(start)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )
    _take_steps(start, model, optimizer, workdir)
    return evaluate(model, start)


def build(start: Start) -> torch.nn.Module:
    """torchvision's model with the initial weights of a run."""
    config = copy.deepcopy(start.config)
    in_1x1, config.model.backbone.stride_in_1x1 = config.model.backbone.stride_in_1x1, False
    data = config.data
    sides = {"short_side": data.test_short_side, "max_long_side": data.test_max_long_side}
    state = torchvision.to_state_dict(start.variables, config.model)
    model = reference.build(config, state, **sides)
    if in_1x1:  # torchvision has no setting for it.
        body = model.backbone.body
        for stage in (body.layer2, body.layer3, body.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return model


def _take_steps(start: Start, model: Any, optimizer: Any, workdir: Path) -> None:
    config, path = start.config, workdir / CHECKPOINT
    first = _restore(path, model, optimizer)
    rate = training.learning_rate(config.optimizer, config.batch_size, config.num_steps)
    settings = {"batch_size": config.batch_size, "seed": config.seed, "start_step": first}
    batches = train_batches(start.train_data, config.data, **settings)
    log = MetricsLog(workdir / "metrics.jsonl", first)
    with contextlib.closing(batches), contextlib.closing(log):
        for step in range(first + 1, config.num_steps + 1):
            torch.manual_seed(config.seed * 1_000_003 + step)  # Of the samples of this step.
            current = float(rate(step - 1))
            log.add(step, _step(model, optimizer, next(batches), current, config))
            saving = step == config.num_steps or is_due(step, config.save_every)
            if saving or is_due(step, config.log_every):
                means = log.flush(step, config.batch_size, learning_rate=current)
                print(f"step {step} of {config.num_steps}: loss {means['loss']:.3f}", flush=True)
            if saving:
                _save(path, step, model, optimizer)


def _step(
    model: Any, optimizer: Any, batch: Batch, rate: float, config: Config
) -> dict[str, jax.Array]:
    """Takes a step of SGD; returns the losses and the norm of the gradient."""
    model.train()
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad()
    # The images have their size already.
    with mock.patch.object(model.transform, "resize", lambda image, target: (image, target)):
        losses = model(*inputs(batch))
    total = sum(losses.values())
    total.backward()
    limit = config.optimizer.max_gradient_norm
    parameters = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
    optimizer.step()
    found = losses | {"loss": total, "gradient_norm": norm}
    return {name: jnp.asarray(value.detach().numpy()) for name, value in found.items()}


def inputs(batch: Batch) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A batch of ours as the arguments of torchvision's model: images without padding, targets."""
    images, targets = [], []
    assert isinstance(batch.instances.masks, Bitmaps)
    for i, (height, width) in enumerate(batch.sizes):
        pixels = torch.tensor(batch.images[i, :height, :width])
        images.append(pixels.permute(2, 0, 1).float() / 255)
        valid = batch.instances.valid[i]
        masks = batch.instances.masks.values[i, valid, :height, :width] > 0
        targets.append(
            {
                "boxes": torch.tensor(batch.instances.boxes[i, valid]),
                "labels": torch.tensor(batch.instances.classes[i, valid]).long(),
                "masks": torch.tensor(masks.astype(np.uint8)),
            }
        )
    return images, targets


def evaluate(model: Any, start: Start) -> evaluation.Evaluation:
    """Box and mask AP of torchvision's detections, counted by our evaluation."""
    model.eval()
    return evaluation.evaluate_images(
        partial(_detect, model),
        start.val_data,
        start.annotations,
        start.train_data.categories,
        start.config.detection.num_detections,
    )


@torch.no_grad()
def _detect(model: Any, image: np.ndarray) -> ImageDetections:
    (found,) = model([torch.tensor(image).permute(2, 0, 1).float() / 255])
    arrays = {name: value.numpy() for name, value in found.items()}
    patches = [(mask, (0, 0)) for mask in arrays["masks"][:, 0]]
    return ImageDetections(arrays["boxes"], arrays["labels"], arrays["scores"], patches)


def _restore(path: Path, model: Any, optimizer: Any) -> int:
    """Loads the saved state, if there is one; returns the number of steps taken."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"]


def _save(path: Path, step: int, model: Any, optimizer: Any) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)  # A process that is killed here leaves the earlier state whole.
