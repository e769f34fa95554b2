"""Measures how the time grows with image area, objects, proposals and batch size.

    python -m benchmarks.growth --output benchmarks/results/growth.json

Draws a plot (.png) beside the JSON; needs matplotlib. The model is R50-FPN with random weights.
Images are square, except in the first panel, where their aspect ratio is 4:3.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks import inputs, machine, models
from maskrcnn_jax import execution, training
from maskrcnn_jax.config import Config, DataConfig, DetectionConfig, OptimizerConfig
from maskrcnn_jax.data import pipeline
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.parity import recipe
from maskrcnn_jax.parity.training_replay import InMemory
from maskrcnn_jax.weights import torchvision
from maskrcnn_jax.xla import cache

SIDE = 320
SHORT_SIDES = (192, 288, 384, 576, 768, 960)
OBJECTS = (1, 10, 50, 100, 200, 350, 500)
PROPOSALS = (100, 250, 500, 1000, 2000)
BATCHES = (1, 2, 4, 8)
ROUNDS = 5


def image_area() -> dict[int, float]:
    """Seconds of detection by the number of pixels of the bucket."""
    found = {}
    for short_side in SHORT_SIDES:
        bucket = short_side, short_side * 4 // 3
        found[bucket[0] * bucket[1]] = _median(_detect(DetectionConfig(), bucket))
    return found


def objects() -> dict[int, float]:
    """Seconds of a training step by the number of objects, in one program of 500 slots."""
    data = DataConfig(buckets=((SIDE, SIDE),), short_sides=(SIDE,), max_long_side=SIDE)
    data.max_instances = max(OBJECTS)
    batches = {count: _batch(data, 1, count) for count in OBJECTS}
    step = _train_step(Config(model=recipe.config("v1"), batch_size=1, data=data))
    return {count: _median(partial(step, batch)) for count, batch in batches.items()}


def proposals() -> dict[int, float]:
    """Seconds of detection by the number of proposals for the box head."""
    found = {}
    for count in PROPOSALS:
        detection = DetectionConfig(num_proposals=count)
        found[count] = _median(_detect(detection, (SIDE, SIDE)))
    return found


def batch() -> dict[int, float]:
    """Seconds of a training step by the batch size."""
    data = DataConfig(buckets=((SIDE, SIDE),), short_sides=(SIDE,), max_long_side=SIDE)
    found = {}
    for count in BATCHES:
        step = _train_step(Config(model=recipe.config("v1"), batch_size=count, data=data))
        found[count] = _median(partial(step, _batch(data, count, inputs.NUM_OBJECTS)))
    return found


CURVES: dict[str, tuple[Callable[[], dict[int, float]], str]] = {
    "detection": (image_area, "pixels"),
    "training step, 500 slots": (objects, "objects"),
    "detection, 320x320": (proposals, "proposals"),
    "training step, 320x320": (batch, "images in the batch"),
}


def _variables(config: ModelConfig) -> Any:
    return jax.device_put(torchvision.from_state_dict(recipe.state_dict(config), config))


def _detect(detection: DetectionConfig, bucket: tuple[int, int]) -> Callable[[], Any]:
    config, run = recipe.config("v1"), execution.choose()
    apply, variables = run.jit(MaskRCNN(config, detection, run).apply), _variables(config)
    images = inputs.images((bucket,))[0][None]
    sizes = np.array([bucket], np.int32)
    return lambda: jax.block_until_ready(apply(variables, images, sizes))


def _batch(data: DataConfig, batch_size: int, num_objects: int) -> Any:
    examples = InMemory(inputs.examples(batch_size, num_objects, (SIDE, SIDE)))
    batches = pipeline.train_batches(examples, data, batch_size=batch_size, seed=0)
    return jax.device_put(next(batches))


def _train_step(config: Config) -> Callable[[Any], None]:
    config.optimizer = OptimizerConfig(learning_rate=models.RATE, warmup_steps=0)
    variables = _variables(config.model)
    model = MaskRCNN(config.model, run=execution.choose(config.execution))
    optimizer = training.make_optimizer(config, variables["params"])
    step, key = training.compile_step(model, optimizer, config), jax.random.key(0)
    state = training.create_state(variables, optimizer)

    def run(batch: Any) -> None:
        nonlocal state
        state, metrics = step(state, batch, key)
        jax.block_until_ready((state, metrics))
        assert step._cache_size() == 1, "compiled again"

    return run


def _median(run: Callable[[], Any]) -> float:
    run()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws a panel for each curve, with axes from zero and a line through the end points."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    for axes, (title, curve) in zip(
        figure.subplots(2, 2).flat, result["curves"].items(), strict=True
    ):
        x, y = [int(key) for key in curve["seconds"]], list(curve["seconds"].values())
        axes.plot([x[0], x[-1]], [y[0], y[-1]], color="0.8", linewidth=1)
        axes.plot(x, y, marker="o", markersize=4, color="#1f6f8b")
        axes.set(title=title, xlabel=curve["by"], ylabel="seconds")
        axes.set(xlim=(0, 1.05 * max(x)), ylim=(0, 1.1 * max(y)))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Writes the figures after each curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    cache.keep_compiled_programs()
    result = machine.describe() | {"curves": {}}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for title, (measure, by) in CURVES.items():
        seconds = measure()
        result["curves"][title] = {"by": by, "seconds": seconds}
        print(title, {x: round(value, 3) for x, value in seconds.items()}, file=sys.stderr)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    plot(json.loads(args.output.read_text()), args.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
