"""Contenders that detect or train with whole models, on the same weights and images."""

from typing import Any

import numpy as np

from benchmarks import inputs
from benchmarks.contender import Run
from benchmarks.inputs import Size

RATE = 1e-5  # Learning rate of SGD, so small that the weights hardly change.


def detector(sizes: tuple[Size, ...]) -> Run:
    """Prepares our detector for images of these sizes in one call."""
    from maskrcnn_jax import execution
    from maskrcnn_jax.data.categories import Categories
    from maskrcnn_jax.detector import Detector
    from maskrcnn_jax.model import MaskRCNN

    run = _prepare(execution.choose())
    config, variables = _weights()
    categories = Categories.numbered(config.num_classes - 1)
    detector = Detector(MaskRCNN(config, run=run), variables, categories)
    images = inputs.images(sizes)
    return lambda: detector(images)


def torchvision_detector(sizes: tuple[Size, ...], channels_last: bool = False) -> Run:
    """Prepares torchvision's model for the same images in one call."""
    model = _torchvision_model(channels_last)
    import torch

    images = [torch.from_numpy(image).permute(2, 0, 1) for image in inputs.images(sizes)]

    @torch.no_grad()
    def run() -> list[dict[str, np.ndarray]]:
        found = model([image / 255 for image in images])
        return [{name: x.numpy() for name, x in of_image.items()} for of_image in found]

    return run


def compare_detections(
    theirs: list[dict[str, np.ndarray]], ours: list[dict[str, np.ndarray]]
) -> str:
    """Counts the pairs of equal detections.

    The detections of a pair have the same label, boxes within 0.1 px, scores within 1e-3, and equal
    masks at nearly all pixels. A batch of torchvision's has one canvas for all images, which
    changes the results; see docs/parity.md.

    Raises:
        ValueError: Fewer than 99 % of the detections of a single image have a partner.
    """
    counts = [
        (_num_pairs(a, b), len(a["labels"]), len(b["labels"]))
        for a, b in zip(theirs, ours, strict=True)
    ]
    if len(counts) == 1 and counts[0][0] < 0.99 * max(counts[0][1:]):
        found, first, second = counts[0]
        raise ValueError(f"of {first} and {second} detections only {found} pair off")
    pairs, first, second = map(sum, zip(*counts, strict=True))
    return f"{pairs} of {first} and {second} detections pair off"


def _num_pairs(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> int:
    count = 0
    for i, box in enumerate(theirs["boxes"]):
        near = np.abs(ours["boxes"] - box).max(axis=1) < 0.1
        near &= np.abs(ours["scores"] - theirs["scores"][i]) < 1e-3
        masks = ours["masks"][near & (ours["labels"] == theirs["labels"][i])]
        differ = [np.abs(mask - theirs["masks"][i]) > 1e-3 for mask in masks]
        count += any(np.mean(pixels) < 1e-3 for pixels in differ)
    return count


def training_step(batch_size: int) -> Run:
    """Prepares our step: forward, backward and SGD with momentum, on a batch in memory."""
    import jax

    from maskrcnn_jax import execution, training
    from maskrcnn_jax.config import Config, DataConfig, OptimizerConfig
    from maskrcnn_jax.data import pipeline
    from maskrcnn_jax.model import MaskRCNN
    from maskrcnn_jax.parity.training_replay import InMemory

    model_config, variables = _weights()
    data = DataConfig(buckets=(inputs.TRAINING,), horizontal_flip=0.0)
    rate = RATE * training.REFERENCE_BATCH / batch_size
    config = Config(
        model=model_config,
        batch_size=batch_size,
        data=data,
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=0),
    )
    examples = InMemory(inputs.examples(batch_size))
    batches = pipeline.train_batches(examples, data, batch_size=batch_size, seed=0)
    batch = jax.device_put(next(batches))
    model = MaskRCNN(config.model, run=_prepare(execution.choose(config.execution)))
    optimizer = training.make_optimizer(config, variables["params"])
    step = training.compile_step(model, optimizer, config)
    state, key = None, jax.random.key(0)

    def run() -> dict[str, float]:
        nonlocal state, variables
        if state is None:  # Created here, so that its memory counts, as torchvision's does.
            state, variables = training.create_state(variables, optimizer), None
        state, metrics = step(state, batch, key)
        jax.block_until_ready(state)
        return {name: float(value) for name, value in metrics.items()}

    return run


def torchvision_training_step(batch_size: int, channels_last: bool = False) -> Run:
    """Prepares torchvision's step on the same images, which its transform does not resize."""
    model = _torchvision_model(channels_last)
    from maskrcnn_jax.parity import training_reference

    import torch  # isort: skip  (after the reference)

    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, RATE, momentum=0.9, weight_decay=1e-4)
    arguments = training_reference.inputs(inputs.examples(batch_size))

    def run() -> dict[str, float]:
        optimizer.zero_grad()
        losses = model(*arguments)
        sum(losses.values()).backward()
        optimizer.step()
        return {name: value.item() for name, value in losses.items()}

    return run


def compare_losses(theirs: dict[str, float], ours: dict[str, float]) -> str:
    """Compares the losses roughly, since each side samples its own anchors and RoIs.

    docs/parity.md compares the losses on the same samples.

    Raises:
        ValueError: A loss differs by more than a third.
    """
    shares = {name: abs(ours[name] / loss - 1) for name, loss in theirs.items()}
    worst = max(shares, key=shares.get)
    if shares[worst] > 1 / 3:
        raise ValueError(f"{worst} is {ours[worst]:.4g}, and torchvision's {theirs[worst]:.4g}")
    return f"losses of own draws differ by at most {shares[worst]:.0%}"


def _prepare(run: Any) -> Any:
    """Sets up this process as our commands do; returns the execution."""
    from maskrcnn_jax.xla import cache, compiler

    cache.keep_compiled_programs()
    if run.small_on_cpu:
        compiler.return_memory_after_compiling()
    return run


def _weights() -> tuple[Any, Any]:
    """The config of `maskrcnn_resnet50_fpn`, and random weights on the device."""
    import jax

    from maskrcnn_jax.parity import recipe
    from maskrcnn_jax.weights import torchvision

    config = recipe.config("v1")
    variables = torchvision.from_state_dict(recipe.state_dict(config), config)
    return config, jax.device_put(variables)


def _torchvision_model(channels_last: bool) -> Any:
    from maskrcnn_jax.config import Config
    from maskrcnn_jax.parity import recipe, reference

    import torch  # isort: skip  (after the reference)

    config = recipe.config("v1")
    model = reference.build(Config(model=config), recipe.state_dict(config))
    return model.to(memory_format=torch.channels_last) if channels_last else model
