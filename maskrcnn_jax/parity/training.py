"""Compares training with torchvision: losses, gradients, and the weights after steps of SGD.

    python -m maskrcnn_jax.parity.training v1 IMAGE_FOLDER ANNOTATIONS [--short-side 800]

Both sides start from the same random weights and use the anchors and RoIs that torchvision sampled.
Each side computes matching, targets, losses, gradients, batch norm and the optimizer itself. The
command prints a table, and exits with 1 if an error exceeds its tolerance. It needs torch and
torchvision.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.parity import (
    recipe,
    reference,
    training_reference,
    training_replay,
    training_weights,
)
from maskrcnn_jax.parity.training_replay import Samples, Step
from maskrcnn_jax.weights.torchvision_resnet import COUNTER

# For each step, the number of objects to keep in the first image and in the others; None for all.
OBJECTS = ((None, None), (None, 0), (0, 0), (1, 0), (None, None))
LEARNING_RATE = 3e-6  # At thirty times this rate, some losses vanish and others diverge.
TOLERANCES = {
    "anchor labels": 0.0,
    "RoI classes": 0.0,
    "mask targets": 1e-5,
    "losses": 1e-5,
    "gradients": 1e-3,
    "change of the weights": 1e-4,
    "change of the running means": 1e-4,
    "change of the running variances": 1e-4,
}
# Relative to the norm of the whole gradient. Smaller gradients are rounding noise.
SMALLEST_GRADIENT = 1e-6


class Row(NamedTuple):
    """The largest error of a quantity over all steps, and the place of that error."""

    quantity: str
    error: float
    where: str

    @property
    def tolerance(self) -> float:
        """The largest error that passes."""
        return TOLERANCES[self.quantity]

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance; False for NaN."""
        return self.error <= self.tolerance


def compare_training(
    config: ModelConfig,
    state: dict[str, np.ndarray],
    batches: Sequence[Sequence[Example]],
    *,
    short_side: int,
    max_long_side: int,
    learning_rate: float = LEARNING_RATE,
    jit: Callable[..., Any] | None = None,
) -> list[Row]:
    """Trains both models on the same batches; compares each step, and the change after all steps.

    The error of labels and classes is the number of differing ones, the error of mask targets the
    largest difference, and the error of losses the relative difference. The error of a gradient is
    the norm of the difference over the norm of torchvision's gradient. The error of a change is the
    norm of the difference over the norm of torchvision's change, for all weights together, all
    running means, or all running variances.

    Args:
        config: The model.
        state: Weights by torchvision's names. Only those of `training_weights` compare well.
        batches: Images before resizing, with their objects. All batches have one size.
        short_side: As in `JaxModel`.
        max_long_side: As in `JaxModel`.
        learning_rate: The constant rate of SGD with momentum 0.9 and weight decay 1e-4.
        jit: Compiles our functions; by default as in training.
    """
    optimizer = OptimizerConfig(learning_rate=learning_rate, warmup_factor=1.0, decay_steps=())
    sides = {"short_side": short_side, "max_long_side": max_long_side}
    model = reference.build(Config(model=config), state, **sides)
    steps = training_reference.steps(model, batches, optimizer)
    ours = training_replay.Trainer(config, state, optimizer, jit)
    replayed = training_replay.batches(batches, short_side, max_long_side)
    rows = []
    for number, (step, batch) in enumerate(zip(steps, replayed, strict=True)):
        samples, losses, gradients = ours.step(batch, step)
        bucket, canvas = batch.images.shape[1:3], tuple(batch.canvas[0].tolist())
        places = training_replay.anchor_places(bucket, canvas, config)
        found = [*_sample_rows(step, samples, places), _loss_row(step, losses)]
        found.append(_gradient_row(step, gradients))
        rows += [row._replace(where=f"step {number}, {row.where}") for row in found]
    rows += change_rows(state, ours.state_dict(), training_reference.state_dict(model))
    return worst(rows)


def choose(dataset: CocoDataset, num_steps: int, batch_size: int) -> list[list[Example]]:
    """Makes batches of the first landscape images, with the objects of `OBJECTS`.

    Raises:
        ValueError: The data set has too few such images.
    """
    wide = [i for i, (height, width) in enumerate(dataset.sizes) if width > height]
    examples = [example for example in map(dataset.__getitem__, wide) if len(example.boxes)]
    if len(examples) < num_steps * batch_size:
        raise ValueError(
            f"{num_steps} batches of {batch_size} need as many images wider than high, with objects"
        )
    chosen = []
    for step in range(num_steps):
        first, others = OBJECTS[step % len(OBJECTS)]
        batch = examples[step * batch_size : (step + 1) * batch_size]
        counts = [first, *[others] * (batch_size - 1)]
        chosen.append([_leave(*pair) for pair in zip(batch, counts, strict=True)])
    return chosen


def _leave(example: Example, count: int | None) -> Example:
    """Keeps only the first ``count`` objects of an example."""
    return example._replace(
        boxes=example.boxes[:count], classes=example.classes[:count], masks=example.masks[:count]
    )


def _sample_rows(step: Step, samples: Samples, places: np.ndarray) -> Iterator[Row]:
    """The errors of our matching and mask targets for torchvision's anchors and RoIs.

    ``places`` holds the index of each of torchvision's anchors among ours.
    """
    for i, theirs in enumerate(step.anchor_labels):
        ours = samples.anchor_labels[i][places]
        yield Row("anchor labels", float((ours != theirs).sum()), f"image {i}")
    for i, classes in enumerate(step.roi_classes):
        order = np.argsort(classes == 0, kind="stable")  # Our slots have positive RoIs first.
        classes, instances = classes[order], step.roi_instances[i][order]
        wrong = samples.rois.classes[i][: len(order)] != classes
        wrong |= (samples.rois.instances[i][: len(order)] != instances) & (classes > 0)
        yield Row("RoI classes", float(wrong.sum()), f"image {i}")
    for i, theirs in enumerate(step.mask_targets):
        error = np.abs(samples.masks[i][: len(theirs)] - theirs).max(initial=0.0)
        yield Row("mask targets", float(error), f"image {i}")


def _loss_row(step: Step, losses: dict[str, float]) -> Row:
    errors = {
        name: abs(losses[name] - loss) / abs(loss or 1.0) for name, loss in step.losses.items()
    }
    return _largest("losses", errors)


def _gradient_row(step: Step, gradients: dict[str, np.ndarray]) -> Row:
    smallest = SMALLEST_GRADIENT * _norm(step.gradients.values())
    errors = {
        name: _norm([gradients[name] - theirs]) / max(_norm([theirs]), smallest)
        for name, theirs in step.gradients.items()
    }
    return _largest("gradients", errors)


def change_rows(
    before: dict[str, np.ndarray], ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> list[Row]:
    """The errors of the change of all weights, and of all running means and variances.

    The place of an error is the array that contributes most to it.
    """
    kinds = {"running_mean": "means", "running_var": "variances"}
    groups: dict[str, list[str]] = {}
    for name in ours:
        if COUNTER not in name:
            kind = kinds.get(name.split(".")[-1])
            quantity = f"change of the running {kind}" if kind else "change of the weights"
            groups.setdefault(quantity, []).append(name)
    rows = []
    for quantity, names in groups.items():
        differences = {name: _norm([ours[name] - theirs[name]]) for name in names}
        moved = _norm([theirs[name] - before[name] for name in names])
        where = max(differences, key=differences.get)
        whole = _norm(np.array([*differences.values()])[None])
        if whole or moved:  # Skip frozen statistics.
            rows.append(Row(quantity, whole / moved if moved else np.inf, where))
    return rows


def worst(rows: Iterable[Row]) -> list[Row]:
    """The row with the largest error of each quantity, in the order of `TOLERANCES`."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.quantity not in found or _rank(row.error) > _rank(found[row.quantity].error):
            found[row.quantity] = row
    return [found[quantity] for quantity in TOLERANCES if quantity in found]


def _largest(quantity: str, errors: dict[str, float]) -> Row:
    name = max(errors, key=lambda name: _rank(errors[name]))
    return Row(quantity, float(errors[name]), name)


def _rank(error: float) -> float:
    """A sort key of errors; NaN is the worst."""
    return np.inf if np.isnan(error) else error


def _norm(arrays: Iterable[np.ndarray]) -> float:
    """The Euclidean norm of all arrays together."""
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def to_markdown(rows: Iterable[Row]) -> str:
    """The rows as a table."""
    lines = ["| quantity | tolerance | largest error | where |", "|---|---|---|---|"]
    for row in rows:
        mark = "" if row.passed else " **too much**"
        numbers = f"{row.tolerance:.0e} | {row.error:.1e}{mark}"
        lines.append(f"| {row.quantity} | {numbers} | {row.where} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", choices=recipe.VARIANTS)
    parser.add_argument("images", help="folder of images")
    parser.add_argument("annotations", help="json in COCO's format")
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--max-long-side", type=int, default=1333)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    config = recipe.config(options.variant)
    sides = {"short_side": options.short_side, "max_long_side": options.max_long_side}
    dataset = CocoDataset(options.images, options.annotations, keep_empty=False)
    batches = choose(dataset, options.steps, options.batch_size)
    state = training_weights.settled(config, batches, seed=options.seed, **sides)
    rows = compare_training(config, state, batches, learning_rate=options.learning_rate, **sides)
    print(to_markdown(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
