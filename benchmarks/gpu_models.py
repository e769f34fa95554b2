"""Training and detection on one accelerator, for `benchmarks.gpu`."""

import gzip
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import gpu_profile, gpu_timing
from benchmarks.gpu_timing import Row
from maskrcnn_jax import execution, training
from maskrcnn_jax.config import Config, DetectionConfig, OptimizerConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RoIConfig,
    RPNConfig,
)
from maskrcnn_jax.structures import Batch, Crops, Instances

Size = tuple[int, int]  # Height and width.

NUM_OBJECTS, SLOTS = 7, 100  # Objects as in an average COCO image; slots per image.
NUM_CLASSES = 81  # With background.
PROFILED_STEPS = 2
# The scale of the last norm of each residual block. With 1, random weights double the variance in
# each block, and all proposals become as large as the image.
RESIDUAL_SCALE = 0.2


class Setup(NamedTuple):
    """The settings that all measurements share."""

    bucket: Size
    repeats: int  # Calls in a round.
    tiny: bool
    folder: Path  # For profiles and the text of programs.


def make_config(tiny: bool) -> Config:
    """The config of R50-FPN in bfloat16, or of a model that a CPU compiles and runs in a minute."""
    if not tiny:
        return Config(model=ModelConfig(dtype="bfloat16"))
    model = ModelConfig(
        dtype="bfloat16",
        backbone=ResNetConfig(depth=18, stem_channels=8),
        fpn=FPNConfig(channels=16),
        rpn=RPNConfig(num_samples=32, num_candidates=64, num_proposals=64),
        roi=RoIConfig(num_samples=16),
        box_head=BoxHeadConfig(features=32),
        mask_head=MaskHeadConfig(num_convs=1, channels=16),
    )
    detection = DetectionConfig(num_candidates=64, num_proposals=64)
    return Config(model=model, detection=detection)


def train(
    setup: Setup,
    name: str,
    batch_size: int,
    *,
    changes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Row:
    """Times our training step, and profiles two of them.

    The learning rate is so small that the weights hardly change.

    Args:
        setup: The sizes.
        name: Names the files of the profile.
        batch_size: Images per step.
        changes: Fields of `Execution` that differ from those chosen for the device.
        options: Compiler options that differ from the defaults.
    """
    config = make_config(setup.tiny)
    config.batch_size = batch_size
    config.optimizer = OptimizerConfig(warmup_steps=0, learning_rate=1e-6)
    run = execution.choose(config.execution)._replace(**(changes or {}))
    model = MaskRCNN(config.model, config.detection, run)
    variables = jax.tree.map(np.asarray, _variables(setup.tiny))  # Steps donate the state.
    optimizer = training.make_optimizer(config, variables["params"])
    state = training.create_state(variables, optimizer)
    batch, key = make_batch(batch_size, setup.bucket), jax.random.key(0)
    step = training.compile_step(model, optimizer, config)
    program, row = gpu_timing.compile_for(step, state, batch, key, options=options)
    metrics: dict[str, Any] = {}

    def steps(count: int) -> None:
        nonlocal state, metrics
        for _ in range(count):
            state, metrics = program(state, batch, key)
        jax.block_until_ready((state, metrics))

    row |= _measure(setup, name, program, steps, batch_size)
    loss = float(metrics["loss"])
    if not np.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}")
    return row | {"loss": loss}


def detect(setup: Setup, name: str, batch_size: int) -> Row:
    """Times our detection without pasting, and profiles it."""
    config, run = make_config(setup.tiny), execution.choose()
    variables, batch = _variables(setup.tiny), make_batch(batch_size, setup.bucket)
    variables = jax.device_put(variables, jax.devices()[0])
    model = MaskRCNN(config.model, config.detection, run)
    # Random weights give all classes about the same score, below the usual threshold.
    apply = run.jit(partial(model.apply, score_threshold=0.0))
    program, row = gpu_timing.compile_for(apply, variables, batch.images, batch.sizes)

    def calls(count: int) -> None:
        for _ in range(count):
            found = program(variables, batch.images, batch.sizes)
        jax.block_until_ready(found)

    return row | _measure(setup, name, program, calls, batch_size)


def _measure(
    setup: Setup, name: str, program: Any, run: Callable[[int], None], batch_size: int
) -> Row:
    seconds = gpu_timing.seconds_each(run, setup.repeats)
    text = program.as_text()
    file = setup.folder / "programs" / f"{gpu_profile.file_name(name)}.hlo.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode(), compresslevel=1))
    row = {"seconds": seconds, "images_per_second": batch_size / seconds, "images": batch_size}
    try:
        folder = setup.folder / "profiles" / gpu_profile.file_name(name)
        events = gpu_profile.record(lambda: run(PROFILED_STEPS), folder)
        kind = jax.devices()[0].device_kind
        row["profile"] = gpu_profile.summarise(events, PROFILED_STEPS, text, kind)
    except Exception as error:  # The time was measured without the profiler, and still counts.
        row["profile"] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    return row


@cache
def _variables(tiny: bool) -> dict[str, Any]:
    """Random variables, on the host: a CPU compiles their one program faster."""
    with jax.default_device(jax.devices("cpu")[0]):
        found = training.init_variables(MaskRCNN(make_config(tiny).model), 0)

    def rescale(path: tuple[Any, ...], x: Any) -> Any:
        is_last = [part.key for part in path[-2:]] == ["bn3", "scale"]
        return np.asarray(x) * np.float32(RESIDUAL_SCALE if is_last else 1)

    return jax.tree_util.tree_map_with_path(rescale, found)


def make_batch(batch_size: int, bucket: Size) -> Batch:
    """Puts random images with seven elliptic objects each onto the device.

    The arrays are those of the data pipeline.
    """
    random = np.random.default_rng(0)
    found = np.zeros((batch_size, SLOTS, 4), np.float32)
    found[:, :NUM_OBJECTS] = [boxes(NUM_OBJECTS, bucket, seed) for seed in range(batch_size)]
    sizes = np.tile(np.array(bucket, np.int32), (batch_size, 1))
    masks = np.broadcast_to(ellipse((112, 112)), (batch_size, SLOTS, 112, 112))
    return jax.device_put(
        Batch(
            images=random.integers(0, 256, (batch_size, *bucket, 3), np.uint8),
            sizes=sizes,
            canvas=sizes,
            image_id=np.arange(batch_size, dtype=np.int32),
            instances=Instances(
                boxes=found,
                classes=random.integers(1, NUM_CLASSES, (batch_size, SLOTS), np.int32),
                masks=Crops(masks * np.uint8(255)),
                valid=np.tile(np.arange(SLOTS) < NUM_OBJECTS, (batch_size, 1)),
            ),
            num_surplus=np.zeros(batch_size, np.int32),
            num_removed=np.zeros(batch_size, np.int32),
        )
    )


def boxes(count: int, bucket: Size, seed: int = 0) -> np.ndarray:
    """Random boxes of all sizes inside an image, float32 [count, 4]."""
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(16), np.log(min(bucket) * 0.7), (count, 2)))
    corners = random.uniform(0, np.array(bucket[::-1]) - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def ellipse(size: Size) -> np.ndarray:
    """The ellipse that fills a box of this size, uint8 [h, w], 1 inside."""
    rows, columns = (((np.arange(side) + 0.5) / side * 2 - 1) ** 2 for side in size)
    return (rows[:, None] + columns[None] <= 1).astype(np.uint8)
