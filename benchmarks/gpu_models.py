"""Training steps and detection on one accelerator, and torchvision's, for `benchmarks.gpu`."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from benchmarks import gpu_timing
from benchmarks.gpu_timing import Row
from maskrcnn_jax import flops, training
from maskrcnn_jax.config import Config, ModelConfig, OptimizerConfig, RoIConfig, RPNConfig
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import Batch, Instances

Size = tuple[int, int]  # Height and width.

NUM_OBJECTS, SLOTS = 7, 100  # As many as a COCO image has on average, and as a batch has room for.


def model_config(tiny: bool) -> ModelConfig:
    """R50-FPN in bfloat16; or one that a CPU compiles and runs in a minute."""
    if not tiny:
        return ModelConfig(dtype="bfloat16")
    few = {"train_num_candidates": 64, "train_num_proposals": 64, "test_num_candidates": 64, "test_num_proposals": 64}
    small = {"depth": 18, "stem_channels": 8, "fpn_channels": 16, "box_head_features": 32, "mask_head_channels": 16}
    rpn, roi = RPNConfig(num_samples=32, **few), RoIConfig(num_samples=16)
    return ModelConfig(dtype="bfloat16", mask_head_convs=1, rpn=rpn, roi=roi, **small)


def train(batch_size: int, bucket: Size, repeats: int, tiny: bool, *, gradient_form: str = "auto") -> Row:
    """Our training step, and what XLA says of it. The rate is so low that the weights stay as they are."""
    config = Config(model=model_config(tiny), batch_size=batch_size)
    config.model.rpn.gradient_form = gradient_form
    config.optimizer = OptimizerConfig(warmup_steps=0, learning_rate=1e-6)
    model, variables = MaskRCNN(config.model), _variables(tiny)
    optimizer = training.make_optimizer(config, variables["params"])
    state = training.create_state(jax.tree.map(np.asarray, variables), optimizer)  # A copy, for steps overwrite it.
    batch, key = make_batch(batch_size, bucket), jax.random.key(0)
    program, row = gpu_timing.compile_for(training.compile_step(model, optimizer, config), state, batch, key)

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = program(state, batch, key)
        jax.block_until_ready((state, metrics))

    row["seconds"] = gpu_timing.seconds_each(steps, repeats)
    row["operations"] = batch_size * flops.total(config.model, bucket).training
    return row | {"images_per_second": batch_size / row["seconds"]}


def detect(batch_size: int, bucket: Size, repeats: int, tiny: bool) -> Row:
    """Our detection up to masks on boxes, at a threshold that random weights pass."""
    config = model_config(tiny)
    variables, batch = _variables(tiny), make_batch(batch_size, bucket)
    apply = jax.jit(partial(MaskRCNN(config).apply, score_threshold=0.0))
    program, row = gpu_timing.compile_for(apply, variables, batch.images, batch.sizes)

    def calls(count: int) -> None:
        for _ in range(count):
            found = program(variables, batch.images, batch.sizes)
        jax.block_until_ready(found)

    row["seconds"] = gpu_timing.seconds_each(calls, repeats)
    row["operations"] = batch_size * flops.total(config, bucket).forward
    return row | {"images_per_second": batch_size / row["seconds"]}


@cache
def _variables(tiny: bool) -> dict[str, Any]:
    return training.init_variables(MaskRCNN(model_config(tiny)), 0)


def make_batch(batch_size: int, bucket: Size) -> Batch:
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


def boxes(count: int, bucket: Size, seed: int = 0) -> np.ndarray:
    """Boxes of all sizes inside an image, float32 (count, 4)."""
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(16), np.log(min(bucket) * 0.7), (count, 2)))
    corners = random.uniform(0, np.array(bucket[::-1]) - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def torchvision_train(batch_size: int, bucket: Size, repeats: int) -> Row:
    """torchvision's step: AMP in bfloat16, channels last."""
    import torch

    model = _torchvision(bucket).train()
    for parameter in [*model.backbone.body.conv1.parameters(), *model.backbone.body.layer1.parameters()]:
        parameter.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-6, momentum=0.9, weight_decay=1e-4)
    pictures = [torch.rand(3, *bucket, device="cuda") for _ in range(batch_size)]
    targets = [_torchvision_targets(bucket, seed) for seed in range(batch_size)]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = sum(model(pictures, targets).values())
        loss.backward()
        optimizer.step()

    return _torchvision_row(step, batch_size, repeats)


def torchvision_detect(batch_size: int, bucket: Size, repeats: int) -> Row:
    """torchvision's detection, masks pasted into the images included: it offers no other."""
    import torch

    model = _torchvision(bucket, box_score_thresh=0.0).eval()
    pictures = [torch.rand(3, *bucket, device="cuda") for _ in range(batch_size)]

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            model(pictures)

    return _torchvision_row(step, batch_size, repeats)


def _torchvision(bucket: Size, **settings: Any) -> Any:
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    size = {"min_size": min(bucket), "max_size": max(bucket)}
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81, **size, **settings)
    return model.cuda().to(memory_format=torch.channels_last)


def _torchvision_targets(bucket: Size, seed: int) -> dict[str, Any]:
    import torch

    found = torch.from_numpy(boxes(NUM_OBJECTS, bucket, seed)).cuda()
    masks = torch.zeros(NUM_OBJECTS, *bucket, dtype=torch.uint8, device="cuda")
    for mask, (x0, y0, x1, y1) in zip(masks, found.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    return {"boxes": found, "labels": torch.randint(1, 81, (NUM_OBJECTS,), device="cuda"), "masks": masks}


def _torchvision_row(step: Callable[[], None], batch_size: int, repeats: int) -> Row:
    seconds = gpu_timing.torch_seconds_each(step, repeats)
    return {"seconds": seconds, "images_per_second": batch_size / seconds}
