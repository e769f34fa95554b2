"""Measures the images per second of our host pipeline and torchvision's on one core.

    python benchmarks/input_pipeline.py --images DIR --annotations JSON --output FILE.json

DIR and JSON are a data set in COCO's format. Needs torch and OpenCV. All contenders take turns in
this process, on one core and on the same images in the same order. Our pipeline does all the work
of `train_batches`: it makes padded uint8 images resized to 800/1333, and a crop of each object's
mask; the device does the rest. The reference makes the inputs of torchvision's model: float32
images, and masks of the size of the original image. The resizing of these masks does not count.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CORE = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {CORE})  # Set before any library counts the cores to start threads.

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from PIL import __version__ as pillow_version  # noqa: E402
from pycocotools import mask as rle_masks  # noqa: E402

from maskrcnn_jax import images as image_files  # noqa: E402
from maskrcnn_jax import resizing  # noqa: E402
from maskrcnn_jax.config import DataConfig  # noqa: E402
from maskrcnn_jax.data import coco_instances, pipeline, schedule  # noqa: E402
from maskrcnn_jax.data.coco import CocoDataset  # noqa: E402
from maskrcnn_jax.data.prepared import PreparedDataset  # noqa: E402
from maskrcnn_jax.data.streams import streams  # noqa: E402

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)

Batches = Iterator[Any]


def ours(dataset: Any, config: DataConfig, batch_size: int, fast: bool) -> Batches:
    """Opens our batches. Without ``fast`` they are made as if OpenCV were not installed."""
    image_files.cv2 = resizing.cv2 = cv2 if fast else None
    return pipeline.train_batches(dataset, config, batch_size=batch_size, seed=0)


def reference(
    source: tuple[Path, Path], dataset: CocoDataset, config: DataConfig, batch_size: int
) -> Batches:
    """Loads the same images with torchvision's steps; yields (images, targets) of each batch."""
    content = json.loads(source[1].read_text())
    entries = {entry["id"]: entry for entry in content["images"]}
    objects: dict[int, list] = {image_id: [] for image_id in entries}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd", 0):
            objects[annotation["image_id"]].append(annotation)
    members = schedule.train_members(dataset, config)
    rng, step = np.random.default_rng(0), 0
    while True:
        _, indices = schedule.schedule(step, streams(members, 0), batch_size)
        image_ids = dataset.image_ids[indices].tolist()
        loaded = []
        for i in image_ids:
            path, is_flipped = source[0] / entries[i]["file_name"], rng.random() < 0.5
            loaded.append(load(path, objects[i], is_flipped, config))
        yield pad([image for image, _ in loaded]), [target for _, target in loaded]
        step += 1


def load(
    path: Path, objects: list[dict], flip: bool, config: DataConfig
) -> tuple[torch.Tensor, dict]:
    """Loads one image: decodes, converts polygons to masks, flips, normalises and resizes."""
    image = read(path)
    height, width = image.shape[1:]
    boxes = torch.tensor([found["bbox"] for found in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [bitmap(found["segmentation"], height, width) for found in objects]
    masks = torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.uint8)
    if flip:
        image, masks = image.flip(-1), masks.flip(-1)
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    image = (image.to(torch.float32) / 255 - MEAN) / STD
    sides = min(height, width), max(height, width)
    scale = min(config.short_sides[0] / sides[0], config.max_long_side / sides[1])
    image = torch.nn.functional.interpolate(
        image[None],
        scale_factor=scale,
        mode="bilinear",
        align_corners=False,
        recompute_scale_factor=True,
    )[0]
    ratio = torch.tensor([image.shape[2] / width, image.shape[1] / height]).repeat(2)
    labels = torch.tensor([found["category_id"] for found in objects], dtype=torch.int64)
    return image, {"boxes": boxes * ratio, "labels": labels, "masks": masks}


def read(path: Path) -> torch.Tensor:
    """Reads an image as uint8 (3, h, w)."""
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)


def bitmap(segmentation: list | dict, height: int, width: int) -> torch.Tensor:
    """The bitmap of an object: the union of its decoded polygons."""
    encoded = [segmentation]
    if isinstance(segmentation, list):
        encoded = rle_masks.frPyObjects(segmentation, height, width)
    return torch.from_numpy(rle_masks.decode(encoded)).any(dim=2).to(torch.uint8)


def pad(loaded: list[torch.Tensor]) -> torch.Tensor:
    """Pads images of several sizes to one array with sides of multiples of 32."""
    largest = np.max([image.shape[1:] for image in loaded], axis=0)
    height, width = (int(-(-side // 32) * 32) for side in largest)
    batch = torch.zeros((len(loaded), 3, height, width))
    for slot, image in zip(batch, loaded, strict=True):
        slot[:, : image.shape[1], : image.shape[2]].copy_(image)
    return batch


def measure(
    open_batches: Callable[[], Batches], num_images: int, batch_size: int
) -> dict[str, float]:
    """Measures images per second after two batches, when buffers are full and files are cached.

    Returns the rate by the clock, and by the CPU time of this process, which other programs disturb
    less.
    """
    with contextlib.closing(open_batches()) as batches:
        for _ in range(2):
            next(batches)
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(num_images // batch_size):
            next(batches)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    done = num_images // batch_size * batch_size
    return {"clock": done / seconds, "processor": done / cpu_seconds}


def machine() -> dict[str, Any]:
    """The processor, the load and the versions of packages."""
    with open("/proc/cpuinfo") as file:
        model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    versions = {"torch": torch.__version__, "opencv": cv2.__version__, "pillow": pillow_version}
    versions |= {"numpy": np.__version__, "python": platform.python_version()}
    return {"cpu": model, "load": os.getloadavg()[0], "versions": versions}


def print_table(result: dict[str, Any]) -> None:
    """Prints the medians of the rounds, and of the ratios in each round."""
    print(f"{result['cpu']}, one core, load {result['load']:.1f} to {result['load_after']:.1f}")
    print(f"{'images per second':36}  {'by the clock':>14}  {'of processor':>14}")
    rounds = result["images_per_second"]
    for name, rates in rounds.items():
        columns = []
        for kind in ("clock", "processor"):
            base = [found[kind] for found in rounds["torchvision's steps"]]
            ours = [found[kind] for found in rates]
            ratio = statistics.median(a / b for a, b in zip(ours, base, strict=True))
            columns.append(f"{statistics.median(ours):6.1f} {ratio:6.2f}x")
        print(f"{name:36}  {columns[0]}  {columns[1]}")


def parse(description: str | None, *, num_images: int, rounds: int) -> argparse.Namespace:
    """Parses the command line of a measurement on a data set; the numbers are defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    turn = f"in each turn of each contender (default: {num_images})"
    add("--images", required=True, type=Path, metavar="DIR")
    add("--annotations", required=True, type=Path, metavar="JSON")
    add("--batch-size", default=4, type=int)
    add("--num-images", default=num_images, type=int, help=turn)
    add("--rounds", default=rounds, type=int)
    add("--output", type=Path, metavar="FILE", help="for the figures as JSON")
    return parser.parse_args()


def main() -> int:
    """Prints a table of medians, and writes all figures on request."""
    args = parse(__doc__, num_images=80, rounds=7)
    torch.set_num_threads(1)
    source, config = (args.images, args.annotations), DataConfig(num_threads=1)
    dataset = CocoDataset(*source, keep_empty=False)
    with tempfile.TemporaryDirectory() as folder:
        whole = CocoDataset(*source, keep_empty=True)
        coco_instances.prepare(whole, "train", Path(folder), lambda num_images: None)
        records = PreparedDataset(folder, "train", keep_empty=False)
        contenders = {
            "torchvision's steps": lambda: reference(source, dataset, config, args.batch_size),
            "ours, with OpenCV": lambda: ours(dataset, config, args.batch_size, True),
            "ours, with OpenCV, prepared records": lambda: ours(
                records, config, args.batch_size, True
            ),
            "ours, without OpenCV": lambda: ours(dataset, config, args.batch_size, False),
        }
        result = machine() | {"batch_size": args.batch_size, "num_images": args.num_images}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for number in range(args.rounds):
            for name, open_batches in contenders.items():
                rounds[name].append(measure(open_batches, args.num_images, args.batch_size))
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    result |= {"load_after": os.getloadavg()[0], "images_per_second": rounds}
    print_table(result)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
