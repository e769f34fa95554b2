"""Compares training with torchvision's: losses, gradients, and where five steps of SGD lead.

    python -m maskrcnn_jax.parity.training v1 IMAGE_FOLDER ANNOTATIONS [--short-side 800] [--batch-size 2]

Both sides start from the same random weights and take the same anchors and RoIs, those that torchvision drew; matching,
targets, losses, gradients, batch norm and the optimizer are each side's own. Prints a table, and exits with 1 if a
quantity falls short of its tolerance. Needs torch and torchvision.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from maskrcnn_jax import compiler
from maskrcnn_jax.config import ModelConfig, OptimizerConfig
from maskrcnn_jax.data.coco import CocoDataset, Example
from maskrcnn_jax.parity import recipe, reference, training_reference, training_replay, training_weights
from maskrcnn_jax.parity.training_replay import Samples, Step
from maskrcnn_jax.weights import torchvision

# Objects left in the pictures of each step: all of them, in one or all pictures none, in a whole batch a single one.
OBJECTS = ((None, None), (None, 0), (0, 0), (1, 0), (None, None))
LEARNING_RATE = 3e-6  # The losses fall at once; at thirty times as much some fall to nothing, others run away.
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
SMALLEST_GRADIENT = 1e-6  # Of the norm of the whole gradient: smaller ones need not agree among themselves.


class Row(NamedTuple):
    """The largest error of a quantity over all steps, and where it was found."""

    quantity: str
    error: float
    where: str

    @property
    def tolerance(self) -> float:
        """Errors above it fall short."""
        return TOLERANCES[self.quantity]

    @property
    def passed(self) -> bool:
        """Within tolerance; NaN is not."""
        return self.error <= self.tolerance


def compare_training(
    config: ModelConfig,
    state: dict[str, np.ndarray],
    batches: Sequence[Sequence[Example]],
    *,
    short_side: int,
    max_long_side: int,
    learning_rate: float = LEARNING_RATE,
    jit: Callable[..., Any] = jax.jit,
) -> list[Row]:
    """Trains both models on the same batches; compares every step, and the change that all steps made.

    Labels and classes are counted where they differ, mask targets differ by at most the error, losses relatively. The
    error of a gradient is the norm of its difference over its own norm. That of a change is the norm of the difference
    over the norm of torchvision's change, of all weights together, or of all running means or variances.

    Args:
        state: Weights by torchvision's names; see `training_weights` for those that can be compared at all.
        batches: Pictures before resizing, with their objects; all batches of one size.
        learning_rate: Constant, with momentum 0.9 and weight decay 1e-4.
        jit: Compiles our side.
    """
    optimizer = OptimizerConfig(learning_rate=learning_rate, warmup_factor=1.0, decay_steps=())
    model = reference.build(config, state, short_side=short_side, max_long_side=max_long_side)
    steps = training_reference.steps(model, batches, optimizer)
    ours = training_replay.Trainer(config, state, optimizer, jit)
    rows = []
    for number, (step, batch) in enumerate(
        zip(steps, training_replay.batches(batches, short_side, max_long_side), strict=True)
    ):
        samples, losses, gradients = ours.step(batch, step)
        found = [*_sample_rows(step, samples), _loss_row(step, losses), _gradient_row(step, gradients)]
        rows += [row._replace(where=f"step {number}, {row.where}") for row in found]
    rows += change_rows(state, ours.state_dict(), training_reference.state_dict(model))
    return worst(rows)


def choose(dataset: CocoDataset, num_steps: int, batch_size: int) -> list[list[Example]]:
    """The first pictures wider than high that hold objects, in batches with the objects that `OBJECTS` leaves them.

    Raises:
        ValueError: There are too few.
    """
    wide = [i for i, (height, width) in enumerate(dataset.sizes) if width > height]
    pictures = [example for example in map(dataset.__getitem__, wide) if len(example.boxes)]
    if len(pictures) < num_steps * batch_size:
        raise ValueError(f"{num_steps} batches of {batch_size} need as many pictures wider than high, with objects")
    return [
        [_leave(pictures[step * batch_size + i], OBJECTS[step % len(OBJECTS)][min(i, 1)]) for i in range(batch_size)]
        for step in range(num_steps)
    ]


def _leave(example: Example, count: int | None) -> Example:
    return example._replace(boxes=example.boxes[:count], classes=example.classes[:count], masks=example.masks[:count])


def _sample_rows(step: Step, samples: Samples) -> Iterator[Row]:
    """What our matching and our mask targets make of torchvision's anchors and RoIs."""
    for i, theirs in enumerate(step.anchor_labels):
        ours = samples.anchor_labels[i][samples.inside[i]]
        yield Row("anchor labels", float((ours != theirs).sum()), f"image {i}")
    for i, (classes, instances) in enumerate(zip(step.roi_classes, step.roi_instances, strict=True)):
        order = np.argsort(classes == 0, kind="stable")
        wrong = samples.rois.classes[i][: len(order)] != classes[order]
        wrong |= (samples.rois.instances[i][: len(order)] != instances[order]) & (classes[order] > 0)
        yield Row("RoI classes", float(wrong.sum()), f"image {i}")
    for i, theirs in enumerate(step.mask_targets):
        error = np.abs(samples.masks[i][: len(theirs)] - theirs).max(initial=0.0)
        yield Row("mask targets", float(error), f"image {i}")


def _loss_row(step: Step, losses: dict[str, float]) -> Row:
    errors = {name: abs(losses[name] - loss) / abs(loss or 1.0) for name, loss in step.losses.items()}
    return _largest("losses", errors)


def _gradient_row(step: Step, gradients: dict[str, np.ndarray]) -> Row:
    smallest = SMALLEST_GRADIENT * _norm(step.gradients.values())
    errors = {
        name: _norm([gradients[name] - theirs]) / max(_norm([theirs]), smallest)
        for name, theirs in step.gradients.items()
    }
    return _largest("gradients", errors)


def change_rows(before: dict[str, np.ndarray], ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> list[Row]:
    """How far the changes of weights and of statistics differ, each as a whole; where the largest share of it is."""
    kinds = {"running_mean": "means", "running_var": "variances"}
    groups: dict[str, list[str]] = {}
    for name in ours:
        if torchvision.COUNTER not in name:
            kind = kinds.get(name.split(".")[-1])
            groups.setdefault(f"change of the running {kind}" if kind else "change of the weights", []).append(name)
    rows = []
    for quantity, names in groups.items():
        differences = {name: _norm([ours[name] - theirs[name]]) for name in names}
        moved = _norm([theirs[name] - before[name] for name in names])
        where = max(differences, key=differences.get)
        whole = _norm(np.array([*differences.values()])[None])
        if whole or moved:  # Frozen statistics do neither.
            rows.append(Row(quantity, whole / moved if moved else np.inf, where))
    return rows


def worst(rows: Iterable[Row]) -> list[Row]:
    """Of each quantity the row with the largest error, in the order of `TOLERANCES`."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.quantity not in found or _rank(row.error) > _rank(found[row.quantity].error):
            found[row.quantity] = row
    return [found[quantity] for quantity in TOLERANCES if quantity in found]


def _largest(quantity: str, errors: dict[str, float]) -> Row:
    name = max(errors, key=lambda name: _rank(errors[name]))
    return Row(quantity, float(errors[name]), name)


def _rank(error: float) -> float:
    """Errors in order; what is not a number is the worst."""
    return np.inf if np.isnan(error) else error


def _norm(arrays: Iterable[np.ndarray]) -> float:
    """Of all arrays together."""
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def to_markdown(rows: Iterable[Row]) -> str:
    """A table for people."""
    lines = ["| quantity | tolerance | largest error | where |", "|---|---|---|---|"]
    for row in rows:
        mark = "" if row.passed else " **too much**"
        lines.append(f"| {row.quantity} | {row.tolerance:.0e} | {row.error:.1e}{mark} | {row.where} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=recipe.VARIANTS)
    parser.add_argument("images", help="folder of pictures")
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
    jit = compiler.jit(config.deterministic)
    rows = compare_training(config, state, batches, learning_rate=options.learning_rate, jit=jit, **sides)
    print(to_markdown(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
