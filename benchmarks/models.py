"""Whole models as contenders: detection and training steps, with the same random weights and pictures on both sides."""

from typing import Any

import numpy as np

from benchmarks import pictures
from benchmarks.contender import Run
from benchmarks.pictures import Size

RATE = 1e-5  # Of SGD: random weights stay what they are.


def detector(sizes: tuple[Size, ...]) -> Run:
    """Our detector on pictures of these sizes, in one call."""
    from maskrcnn_jax import cache
    from maskrcnn_jax.data.categories import Categories
    from maskrcnn_jax.detector import Detector
    from maskrcnn_jax.model import MaskRCNN

    cache.keep_compiled_programs()
    config, variables = _weights()
    detector = Detector(MaskRCNN(config), variables, Categories.numbered(config.num_classes - 1))
    inputs = pictures.pictures(sizes)
    return lambda: detector(inputs)


def torchvision_detector(sizes: tuple[Size, ...], channels_last: bool = False) -> Run:
    """torchvision's model on the same pictures, in one call."""
    model = _torchvision_model(channels_last)
    import torch

    inputs = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures.pictures(sizes)]

    @torch.no_grad()
    def run() -> list[dict[str, np.ndarray]]:
        found = model([picture / 255 for picture in inputs])
        return [{name: array.numpy() for name, array in of_image.items()} for of_image in found]

    return run


def compare_detections(theirs: list[dict[str, np.ndarray]], ours: list[dict[str, np.ndarray]]) -> str:
    """How many detections pair off: same label, box within 0.1 px, score within 1e-3, and mask at nearly all pixels.

    torchvision's batch has one canvas for all pictures, which moves its results; see docs/parity.md.

    Raises:
        ValueError: Fewer than 99 % pair off in the first picture.
    """
    counts = [(_num_pairs(a, b), len(a["labels"]), len(b["labels"])) for a, b in zip(theirs, ours, strict=True)]
    if len(counts) == 1 and counts[0][0] < 0.99 * max(counts[0][1:]):
        raise ValueError(f"of {counts[0][1]} and {counts[0][2]} detections only {counts[0][0]} pair off")
    pairs, first, second = map(sum, zip(*counts, strict=True))
    return f"{pairs} of {first} and {second} detections pair off"


def _num_pairs(theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> int:
    count = 0
    for i, (box, label, score) in enumerate(zip(theirs["boxes"], theirs["labels"], theirs["scores"], strict=True)):
        near = (np.abs(ours["boxes"] - box).max(axis=1) < 0.1) & (np.abs(ours["scores"] - score) < 1e-3)
        masks = ours["masks"][near & (ours["labels"] == label)]
        count += any(np.mean(np.abs(mask - theirs["masks"][i]) > 1e-3) < 1e-3 for mask in masks)
    return count


def training_step(batch_size: int) -> Run:
    """Our step: forward, backward and SGD with momentum, on a batch that is in memory."""
    import jax

    from maskrcnn_jax import cache, training
    from maskrcnn_jax.config import Config, DataConfig, OptimizerConfig
    from maskrcnn_jax.data import pipeline
    from maskrcnn_jax.model import MaskRCNN

    cache.keep_compiled_programs()
    model_config, variables = _weights()
    data = DataConfig(buckets=(pictures.TRAINING,), horizontal_flip=0.0)
    rate = RATE * training.REFERENCE_BATCH / batch_size
    config = Config(
        model=model_config,
        batch_size=batch_size,
        data=data,
        optimizer=OptimizerConfig(learning_rate=rate, warmup_steps=0),
    )
    examples = InMemory(pictures.examples(batch_size))
    batch = jax.device_put(next(pipeline.train_batches(examples, data, batch_size=batch_size, seed=0)))
    model, optimizer = MaskRCNN(config.model), training.make_optimizer(config, variables["params"])
    step = training.compile_step(model, optimizer, config)
    state, key = None, jax.random.key(0)

    def run() -> dict[str, float]:
        nonlocal state, variables
        if state is None:  # Only now, so that what the optimizer keeps is counted, as it is for torchvision.
            state, variables = training.create_state(variables, optimizer), None
        state, metrics = step(state, batch, key)
        jax.block_until_ready(state)
        return {name: float(value) for name, value in metrics.items()}

    return run


def torchvision_training_step(batch_size: int, channels_last: bool = False) -> Run:
    """torchvision's step on the same pictures; they have the size that its transform resizes to."""
    model = _torchvision_model(channels_last)
    from maskrcnn_jax.parity import training_reference

    import torch  # isort: skip  (after the reference)

    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, RATE, momentum=0.9, weight_decay=1e-4)
    inputs = training_reference.inputs(pictures.examples(batch_size))

    def run() -> dict[str, float]:
        optimizer.zero_grad()
        losses = model(*inputs)
        sum(losses.values()).backward()
        optimizer.step()
        return {name: value.item() for name, value in losses.items()}

    return run


def compare_losses(theirs: dict[str, float], ours: dict[str, float]) -> str:
    """Both draw their own anchors and RoIs, so losses are only alike; docs/parity.md has them on the same draws.

    Raises:
        ValueError: One differs by more than a third.
    """
    shares = {name: abs(ours[name] / loss - 1) for name, loss in theirs.items()}
    worst = max(shares, key=shares.get)
    if shares[worst] > 1 / 3:
        raise ValueError(f"{worst} is {ours[worst]:.4g}, and torchvision's {theirs[worst]:.4g}")
    return f"losses of own draws differ by at most {shares[worst]:.0%}"


class InMemory:
    """A list of examples as a data set."""

    def __init__(self, examples: list[Any]) -> None:
        self._examples = examples
        self.sizes = np.array([example.image.shape[:2] for example in examples])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Any:
        return self._examples[index]


def _weights() -> tuple[Any, Any]:
    """The configuration of `maskrcnn_resnet50_fpn`, and random weights of seed 0 on the device."""
    import jax

    from maskrcnn_jax.parity import recipe
    from maskrcnn_jax.weights import torchvision

    config = recipe.config("v1")
    return config, jax.device_put(torchvision.from_state_dict(recipe.state_dict(config), config))


def _torchvision_model(channels_last: bool) -> Any:
    from maskrcnn_jax.parity import recipe, reference

    import torch  # isort: skip  (after the reference)

    config = recipe.config("v1")
    model = reference.build(config, recipe.state_dict(config))
    return model.to(memory_format=torch.channels_last) if channels_last else model
