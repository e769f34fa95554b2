"""Training and detection on one accelerator, ours and torchvision's, for `benchmarks.gpu`."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from benchmarks import gpu_timing
from benchmarks.gpu_timing import Row
from maskrcnn_jax import execution, training
from maskrcnn_jax.config import (
    BoxHeadConfig,
    Config,
    DetectionConfig,
    ExecutionConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    OptimizerConfig,
    ResNetConfig,
    RoIConfig,
    RPNConfig,
)
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.planning import flops
from maskrcnn_jax.structures import Batch, Crops, Instances

Size = tuple[int, int]  # Height and width.

NUM_OBJECTS, SLOTS = 7, 100  # Objects as in an average COCO image; slots per image.


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
    batch_size: int, bucket: Size, repeats: int, tiny: bool, *, rpn_gradient: str = "windows"
) -> Row:
    """Times our training step, and adds XLA's costs.

    The learning rate is so small that the weights hardly change.
    """
    config = make_config(tiny)
    config.batch_size = batch_size
    config.execution = ExecutionConfig(rpn_gradient=rpn_gradient)
    config.optimizer = OptimizerConfig(warmup_steps=0, learning_rate=1e-6)
    model = MaskRCNN(config.model, config.detection, execution.choose(config.execution))
    variables = jax.tree.map(np.asarray, _variables(tiny))  # A copy, since steps donate the state.
    optimizer = training.make_optimizer(config, variables["params"])
    state = training.create_state(variables, optimizer)
    batch, key = make_batch(batch_size, bucket), jax.random.key(0)
    step = training.compile_step(model, optimizer, config)
    program, row = gpu_timing.compile_for(step, state, batch, key)

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = program(state, batch, key)
        jax.block_until_ready((state, metrics))

    row["seconds"] = gpu_timing.seconds_each(steps, repeats)
    row["operations"] = batch_size * flops.total(config.model, bucket).training
    return row | {"images_per_second": batch_size / row["seconds"]}


def detect(batch_size: int, bucket: Size, repeats: int, tiny: bool) -> Row:
    """Times our detection without pasting, at a score threshold that random weights pass."""
    config, run = make_config(tiny), execution.choose()
    variables, batch = _variables(tiny), make_batch(batch_size, bucket)
    model = MaskRCNN(config.model, config.detection, run)
    apply = run.jit(partial(model.apply, score_threshold=0.0))
    program, row = gpu_timing.compile_for(apply, variables, batch.images, batch.sizes)

    def calls(count: int) -> None:
        for _ in range(count):
            found = program(variables, batch.images, batch.sizes)
        jax.block_until_ready(found)

    row["seconds"] = gpu_timing.seconds_each(calls, repeats)
    row["operations"] = batch_size * flops.total(config.model, bucket).forward
    return row | {"images_per_second": batch_size / row["seconds"]}


@cache
def _variables(tiny: bool) -> dict[str, Any]:
    return training.init_variables(MaskRCNN(make_config(tiny).model), 0)


def make_batch(batch_size: int, bucket: Size) -> Batch:
    """Puts random images with seven objects each onto the device, in the pipeline's format."""
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
                masks=Crops(np.full((batch_size, SLOTS, 112, 112), 255, np.uint8)),
                valid=np.tile(np.arange(SLOTS) < NUM_OBJECTS, (batch_size, 1)),
            ),
            num_surplus=np.zeros(batch_size, np.int32),
        )
    )


def boxes(count: int, bucket: Size, seed: int = 0) -> np.ndarray:
    """Random boxes of all sizes inside an image, float32 [count, 4]."""
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(16), np.log(min(bucket) * 0.7), (count, 2)))
    corners = random.uniform(0, np.array(bucket[::-1]) - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def torchvision_train(batch_size: int, bucket: Size, repeats: int) -> Row:
    """Times torchvision's training step with AMP in bfloat16 and channels last."""
    import torch

    model = _torchvision(bucket).train()
    body = model.backbone.body
    for parameter in [*body.conv1.parameters(), *body.layer1.parameters()]:
        parameter.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-6, momentum=0.9, weight_decay=1e-4)
    images = [torch.rand(3, *bucket, device="cuda") for _ in range(batch_size)]
    targets = [_torchvision_targets(bucket, seed) for seed in range(batch_size)]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()

    return _torchvision_row(step, batch_size, repeats)


def torchvision_detect(batch_size: int, bucket: Size, repeats: int) -> Row:
    """Times torchvision's detection with pasted masks; torchvision cannot skip the pasting."""
    import torch

    model = _torchvision(bucket, box_score_thresh=0.0).eval()
    images = [torch.rand(3, *bucket, device="cuda") for _ in range(batch_size)]

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            model(images)

    return _torchvision_row(step, batch_size, repeats)


def _torchvision(bucket: Size, **settings: Any) -> Any:
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    size = {"min_size": min(bucket), "max_size": max(bucket)}
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=81, **size, **settings
    )
    return model.cuda().to(memory_format=torch.channels_last)


def _torchvision_targets(bucket: Size, seed: int) -> dict[str, Any]:
    import torch

    found = torch.from_numpy(boxes(NUM_OBJECTS, bucket, seed)).cuda()
    masks = torch.zeros(NUM_OBJECTS, *bucket, dtype=torch.uint8, device="cuda")
    for mask, (x0, y0, x1, y1) in zip(masks, found.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    labels = torch.randint(1, 81, (NUM_OBJECTS,), device="cuda")
    return {"boxes": found, "labels": labels, "masks": masks}


def _torchvision_row(step: Callable[[], None], batch_size: int, repeats: int) -> Row:
    seconds = gpu_timing.torch_seconds_each(step, repeats)
    return {"seconds": seconds, "images_per_second": batch_size / seconds}
