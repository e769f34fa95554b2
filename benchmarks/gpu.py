"""Training and detection on one accelerator, in at most eight minutes, beside torchvision if it is there.

    python -m benchmarks.gpu --output benchmarks/results/NAME.json [--minutes 8]

Needs jax, flax, optax, numpy and jaxtyping; torch and torchvision for the comparison. Runs the most telling figures
first and stops when the time is up, so that a short loan of a machine gives something. Every figure comes with its
share of the card's own rate of bfloat16 matrix products. Nobody has run it on a GPU yet: on a CPU, ``--short-side 128``
shows that it works.
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

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from maskrcnn_jax import cache, flops, training
from maskrcnn_jax.config import Config, ModelConfig, OptimizerConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops.roi_align import multilevel_roi_align
from maskrcnn_jax.structures import Batch, Instances

NUM_OBJECTS, SLOTS = 7, 100
BATCH_SIZES = (8, 1, 16, 2, 4)


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Of runs after the first one, which compiles."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_rate() -> float:
    """Operations per second of a large bfloat16 matrix product."""
    side = 8192 if jax.default_backend() != "cpu" else 1024
    a = jnp.ones((side, side), jnp.bfloat16)
    multiply = jax.jit(lambda x: x @ x)
    return 2 * side**3 / median_seconds(lambda: multiply(a).block_until_ready(), 10)


def boxes(count: int, bucket: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Boxes of all sizes inside an image, float32 (count, 4)."""
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(16), np.log(min(bucket) * 0.7), (count, 2)))
    corners = random.uniform(0, np.array(bucket[::-1]) - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def make_batch(batch_size: int, bucket: tuple[int, int]) -> Batch:
    """Random images with seven objects each, as the data pipeline would deliver them, on the device."""
    random = np.random.default_rng(0)
    found = np.zeros((batch_size, SLOTS, 4), np.float32)
    found[:, :NUM_OBJECTS] = [boxes(NUM_OBJECTS, bucket, seed) for seed in range(batch_size)]
    sizes = np.tile(np.array(bucket, np.int32), (batch_size, 1))
    return jax.device_put(
        Batch(
            images=random.integers(0, 256, (batch_size, *bucket, 3), np.uint8),
            sizes=sizes,
            canvas=sizes,
            image_id=np.arange(batch_size, dtype=np.int32),
            instances=Instances(
                boxes=found,
                classes=random.integers(1, 81, (batch_size, SLOTS), np.int32),
                masks=np.full((batch_size, SLOTS, 112, 112), 255, np.uint8),
                valid=np.tile(np.arange(SLOTS) < NUM_OBJECTS, (batch_size, 1)),
            ),
            num_surplus=np.zeros(batch_size, np.int32),
        )
    )


def train(batch_size: int, bucket: tuple[int, int], dtype: str, repeats: int) -> dict[str, Any]:
    """Images per second of the training step, and what XLA says of it."""
    config = Config(model=ModelConfig(dtype=dtype), batch_size=batch_size, optimizer=OptimizerConfig(warmup_steps=0))
    config.optimizer.learning_rate = 1e-6
    model = MaskRCNN(config.model)
    variables = training.init_variables(model, 0)
    optimizer = training.make_optimizer(config, variables["params"])
    state, key = training.create_state(variables, optimizer), jax.random.key(0)
    batch = make_batch(batch_size, bucket)
    start = time.perf_counter()
    program = training.compile_step(model, optimizer, config).lower(state, batch, key).compile()
    compile_seconds = time.perf_counter() - start

    def run() -> None:
        nonlocal state
        state, metrics = program(state, batch, key)
        jax.block_until_ready((state, metrics))

    seconds = median_seconds(run, repeats)
    cost, memory = program.cost_analysis(), program.memory_analysis()
    operations = batch_size * flops.total(config.model, bucket).training
    return {
        "images_per_second": batch_size / seconds,
        "seconds": seconds,
        "operations": operations,
        "compile_seconds": compile_seconds,
        "xla_flops": cost.get("flops"),
        "xla_bytes": cost.get("bytes accessed"),
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def detect(batch_size: int, bucket: tuple[int, int], dtype: str, repeats: int) -> dict[str, Any]:
    """Images per second of detection, without pasting, at a threshold that random weights pass."""
    config = ModelConfig(dtype=dtype)
    model = MaskRCNN(config)
    variables, batch = training.init_variables(model, 0), make_batch(batch_size, bucket)
    apply = jax.jit(partial(model.apply, score_threshold=0.0))
    seconds = median_seconds(lambda: jax.block_until_ready(apply(variables, batch.images, batch.sizes)), repeats)
    operations = batch_size * flops.total(config, bucket).forward
    return {"images_per_second": batch_size / seconds, "seconds": seconds, "operations": operations}


def roi_align(form: str, backward: bool, bucket: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Seconds of RoIAlign over P2 to P5, 512 RoIs of 7x7, bfloat16, two images."""
    random = np.random.default_rng(0)
    pyramid = {
        level: jnp.asarray(random.standard_normal((2, bucket[0] // 2**level, bucket[1] // 2**level, 256)), jnp.bfloat16)
        for level in range(2, 6)
    }
    rois, canvas = jnp.stack([boxes(512, bucket, seed) for seed in (0, 1)]), jnp.array([bucket, bucket])
    align = partial(multilevel_roi_align, resolution=7, sampling_ratio=2, aligned=False, form=form)
    pool = jax.vmap(align)
    if backward:
        program = jax.jit(lambda p, g: jax.vjp(lambda x: pool(x, rois, canvas), p)[1](g))
        cotangent = jnp.ones((2, 512, 7, 7, 256), jnp.bfloat16)
        seconds = median_seconds(lambda: jax.block_until_ready(program(pyramid, cotangent)), repeats)
    else:
        program = jax.jit(lambda p: pool(p, rois, canvas))
        seconds = median_seconds(lambda: jax.block_until_ready(program(pyramid)), repeats)
    return {"seconds": seconds}


def torchvision_train(batch_size: int, bucket: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Images per second of torchvision's step on the card: AMP in bfloat16, channels last."""
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=81, min_size=min(bucket), max_size=max(bucket)
    )
    model = model.cuda().train().to(memory_format=torch.channels_last)
    for parameter in [*model.backbone.body.conv1.parameters(), *model.backbone.body.layer1.parameters()]:
        parameter.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-6, momentum=0.9, weight_decay=1e-4)
    pictures = [torch.rand(3, *bucket, device="cuda") for _ in range(batch_size)]
    targets = []
    for seed in range(batch_size):
        found = torch.from_numpy(boxes(NUM_OBJECTS, bucket, seed)).cuda()
        masks = torch.zeros(NUM_OBJECTS, *bucket, dtype=torch.uint8, device="cuda")
        for mask, (x0, y0, x1, y1) in zip(masks, found.long().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        targets.append({"boxes": found, "labels": torch.randint(1, 81, (NUM_OBJECTS,), device="cuda"), "masks": masks})

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = sum(model(pictures, targets).values())
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()

    return {"images_per_second": batch_size / median_seconds(run, repeats)}


def plans(bucket: tuple[int, int], repeats: int) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Names of all measurements with what measures them, the most telling first."""
    found: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    for batch_size in BATCH_SIZES:
        found.append(
            (f"training, bfloat16, batch {batch_size}", partial(train, batch_size, bucket, "bfloat16", repeats))
        )
        if batch_size in (8, 2):
            found.append(
                (f"torchvision training, batch {batch_size}", partial(torchvision_train, batch_size, bucket, repeats))
            )
    for batch_size in (1, 8):
        found.append(
            (f"detection, bfloat16, batch {batch_size}", partial(detect, batch_size, bucket, "bfloat16", repeats))
        )
    for backward in (False, True):
        for form in ("gather", "einsum"):
            name = f"RoIAlign {'backward' if backward else 'forward'}, {form}"
            found.append((name, partial(roi_align, form, backward, bucket, repeats)))
    return found


def main() -> int:
    """Writes the figures after each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--minutes", type=float, default=8.0, help="no measurement starts later (default: 8)")
    parser.add_argument("--short-side", type=int, default=800, help="of the images, a multiple of 32 (default: 800)")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", default="", metavar="TEXT", help="measurements with this in their name")
    args = parser.parse_args()
    cache.keep_compiled_programs()
    bucket = args.short_side, -(-args.short_side * 1344 // 800 // 32) * 32
    start, rate = time.perf_counter(), matmul_rate()
    device = jax.devices()[0]
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__}
    result = {"device": device.device_kind, "bucket": bucket, "bfloat16_matmul": rate, "versions": versions, "rows": {}}
    print(f"{device.device_kind}: {rate / 1e12:.1f} TFLOP/s in bfloat16 matrix products", file=sys.stderr)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name, measure in plans(bucket, args.repeats):
        if args.only not in name:
            continue
        if time.perf_counter() - start > 60 * args.minutes:
            result["rows"][name] = {"skipped": "out of time"}
            continue
        try:
            row = measure()
        except (ImportError, RuntimeError, AssertionError) as error:  # No torch, out of memory: the others go on.
            row = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        if "operations" in row:
            row["share"] = row["operations"] / row["seconds"] / rate
        result["rows"][name] = row
        summary = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
        print(f"{name}: {summary or row}", file=sys.stderr, flush=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
