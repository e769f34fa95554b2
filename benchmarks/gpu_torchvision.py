"""Times torchvision's training of Mask R-CNN, as its users run it well, for `benchmarks.gpu`.

    python -m benchmarks.gpu_torchvision --batch 4 --height 800 --width 1344

Prints the figures as JSON. A process of its own: two libraries of NVIDIA's in different versions
do not always live together. Needs torch and torchvision, and no weights: the backbone has frozen
batch norm, which needs none to be as fast.
"""

import argparse
import json
import sys
import time
from typing import Any

import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import Bottleneck

from benchmarks import gpu_models, gpu_timing
from benchmarks.gpu_timing import Row

TRAINED_STAGES = 3  # Torchvision's default; the stem and the first stage are frozen.
WARM_UP = 20  # The number of positive RoIs varies, and cuDNN times its kernels for each number.


def train(batch_size: int, bucket: gpu_models.Size, repeats: int, warm_up: int = WARM_UP) -> Row:
    """Times a training step: AMP in bfloat16, channels last, cuDNN's kernels chosen by timing."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = make_model(bucket).to(device, memory_format=torch.channels_last).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-6, momentum=0.9, weight_decay=1e-4)
    images = [torch.rand(3, *bucket, device=device) for _ in range(batch_size)]
    targets = [make_target(bucket, seed, device) for seed in range(batch_size)]
    losses: dict[str, Any] = {}

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                losses.update(model(images, targets))
                loss = sum(losses.values())
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    start = time.perf_counter()
    steps(warm_up)
    row = {"warm_up_seconds": time.perf_counter() - start}
    row["seconds"] = gpu_timing.seconds_each(steps, repeats)
    loss = float(sum(losses.values()))
    if device == "cuda":
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    versions = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    rate = {"images": batch_size, "images_per_second": batch_size / row["seconds"]}
    return row | rate | {"loss": loss, "versions": versions}


def make_model(bucket: gpu_models.Size) -> Any:
    """R50-FPN with random weights, for images of one size."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, trainable_layers=TRAINED_STAGES
    )  # By default its norms are FrozenBatchNorm2d.
    for module in backbone.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.fill_(gpu_models.RESIDUAL_SCALE)
    size = {"min_size": min(bucket), "max_size": max(bucket)}
    return MaskRCNN(backbone, gpu_models.NUM_CLASSES, **size)


def make_target(bucket: gpu_models.Size, seed: int, device: str) -> dict[str, Any]:
    """The same objects as `gpu_models.make_batch`, with masks of whole images."""
    count = gpu_models.NUM_OBJECTS
    found = gpu_models.boxes(count, bucket, seed)
    masks = torch.zeros(count, *bucket, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, found.astype(int).tolist(), strict=True):
        mask[y0:y1, x0:x1] = torch.from_numpy(gpu_models.ellipse((y1 - y0, x1 - x0)))
    labels = torch.randint(1, gpu_models.NUM_CLASSES, (count,))
    target = {"boxes": torch.from_numpy(found), "labels": labels, "masks": masks}
    return {name: x.to(device) for name, x in target.items()}


def main() -> int:
    """Prints one row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--batch", "--height", "--width"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=WARM_UP)
    args = parser.parse_args()
    bucket = args.height, args.width
    print(json.dumps(train(args.batch, bucket, args.repeats, args.warm_up)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
