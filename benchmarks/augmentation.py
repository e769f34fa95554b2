"""Measures images per second of our augmentations and torchvision's on one core.

    taskset -c 1 python -m benchmarks.augmentation --images DIR --annotations JSON --output FILE

DIR and JSON are a data set in COCO's format. Needs torch, torchvision and OpenCV. All contenders
take turns in this process, on one core and on the same images in the same order. The first table is
of whole pipelines, from files to the inputs of a model. Ours makes all of `train_batches`. That of
torchvision has the presets "lsj" and ``copypaste_collate_fn`` of references/detection, without
blending: tensors as backend, float32 images, masks of the size of the image, no normalisation.
Copy-paste there pastes from the image before in the batch; ours reads a second image.

The second table is of each transform alone, applied to images that are in memory. Boxes and masks
are transformed too.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import input_pipeline as inputs  # First: it chooses the core.

# isort: split
import cv2
import numpy as np
import torch

from benchmarks import torchvision_transforms as theirs
from maskrcnn_jax import images, resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import colours, copy_paste, pack, pipeline, schedule, transforms, view
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.streams import streams

SIDE, JITTER = 1024, (0.1, 2.0)
JITTERED = {"jitter": JITTER, "jitter_side": SIDE, "buckets": ((SIDE, SIDE),), "num_threads": 1}


def use_opencv(used: bool) -> None:
    """Makes our code run with OpenCV, or as if it were not installed."""
    for module in (images, resizing, colours, copy_paste):
        module.cv2 = cv2 if used else None


class Reference:
    """torchvision's pipeline on the images of a data set, in the order of our schedule."""

    def __init__(self, source: tuple[Path, Path], dataset: CocoDataset):
        """Reads the annotations."""
        content = json.loads(source[1].read_text())
        self.folder, self.dataset = source[0], dataset
        self.names = {entry["id"]: entry["file_name"] for entry in content["images"]}
        self.objects: dict[int, list] = {image_id: [] for image_id in self.names}
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd", 0):
                self.objects[annotation["image_id"]].append(annotation)

    def load(self, image_id: int) -> tuple[torch.Tensor, theirs.Target]:
        """Decodes an image, and its polygons to masks."""
        found = self.objects[image_id]
        image = inputs.read(self.folder / self.names[image_id])
        height, width = image.shape[1:]
        boxes = torch.tensor([x["bbox"] for x in found], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [inputs.bitmap(x["segmentation"], height, width) for x in found]
        empty = torch.zeros((0, height, width), dtype=torch.uint8)
        labels = torch.tensor([x["category_id"] for x in found], dtype=torch.int64)
        masks = torch.stack(masks) if masks else empty
        return image, {"boxes": boxes, "labels": labels, "masks": masks}

    def batches(self, config: DataConfig, batch_size: int, pastes: bool) -> Iterator[Any]:
        """Yields lists of images with targets: jittered, flipped and, if asked for, pasted."""
        members, rng = schedule.train_members(self.dataset, config), np.random.default_rng(0)
        for step in itertools.count():
            _, indices = schedule.schedule(step, streams(members, 0), batch_size)
            batch = []
            for image_id in self.dataset.image_ids[indices].tolist():
                image, target = jitter(*self.load(image_id), rng)
                if rng.random() < 0.5:
                    image, target = theirs.horizontal_flip(image, target)
                batch.append((image.to(torch.float32) / 255, target))
            yield paste_in_batch(batch) if pastes else batch


def jitter(
    image: torch.Tensor, target: theirs.Target, rng: np.random.Generator
) -> tuple[torch.Tensor, theirs.Target]:
    """Large-scale jitter of torchvision's preset "lsj"."""
    image, target = theirs.scale_jitter(image, target, rng.uniform(*JITTER), SIDE)
    return theirs.fixed_size_crop(image, target, rng.random(), SIDE)


def paste_in_batch(batch: list[Any]) -> list[Any]:
    """Pastes objects of each image over the one behind it."""
    out = []
    for (image, target), (other, other_target) in zip(batch, batch[-1:] + batch[:-1], strict=True):
        count = len(other_target["masks"])
        chosen = torch.unique(torch.randint(0, max(count, 1), (count,)))
        out.append(theirs.simple_copy_paste(image, target, other, other_target, chosen))
    return out


def ours(dataset: CocoDataset, config: DataConfig, batch_size: int, fast: bool) -> Iterator[Any]:
    """Opens our batches. Without ``fast`` they are made as if OpenCV were not installed."""
    use_opencv(fast)
    return pipeline.train_batches(dataset, config, batch_size=batch_size, seed=0)


def pipelines(args: argparse.Namespace, dataset: CocoDataset) -> dict[str, Callable[[], Any]]:
    """The contenders of the first table, by name; torchvision's come first."""
    reference, contenders = Reference((args.images, args.annotations), dataset), {}
    for name, probability in (("jitter", 0.0), ("jitter and copy-paste", 1.0)):
        config = DataConfig(copy_paste=probability, jitter_rule="torchvision", **JITTERED)
        opened = (config, args.batch_size, probability > 0)
        contenders[f"{name}: torchvision"] = lambda opened=opened: reference.batches(*opened)
        for label, fast in (("ours, with OpenCV", True), ("ours, without OpenCV", False)):
            rest = (dataset, config, args.batch_size, fast)
            contenders[f"{name}: {label}"] = lambda rest=rest: ours(*rest)
    return contenders


def alone(args: argparse.Namespace, dataset: CocoDataset) -> dict[str, tuple[Any, Any]]:
    """Each transform alone: for image i, our function and torchvision's, or None."""
    reference = Reference((args.images, args.annotations), dataset)
    chosen = np.linspace(0, len(dataset) - 1, args.num_images).astype(int)
    examples = [dataset[i] for i in chosen]
    loaded = [reference.load(example.image_id) for example in examples]
    config = DataConfig(jitter_rule="torchvision", **JITTERED)
    always = DataConfig(distortion=1.0)
    rng = np.random.default_rng
    squares = [view.jittered_view(rng(i), x, config) for i, x in enumerate(examples)]
    tensors = [jitter(*x, rng(i)) for i, x in enumerate(loaded)]

    def pasted(i: int) -> Any:
        other = tensors[i - 1]
        return theirs.simple_copy_paste(*tensors[i], *other, torch.arange(len(other[1]["masks"])))

    window = samples.Window(100, 100, 800, 800)
    return {
        "decoding": (lambda i: dataset[chosen[i]], lambda i: reference.load(examples[i].image_id)),
        "one of several short sides": (
            lambda i: view.train_view(rng(i), examples[i], DataConfig()),
            lambda i: theirs.shortest_size(*loaded[i], 800, 1333),
        ),
        "jitter": (
            lambda i: view.jittered_view(rng(i), examples[i], config),
            lambda i: jitter(*loaded[i], rng(i)),
        ),
        "crop": (
            lambda i: samples.crop(squares[i], window),
            lambda i: theirs.crop(*tensors[i], *window),
        ),
        "horizontal flip": (
            lambda i: samples.flip_horizontally(squares[i]),
            lambda i: theirs.horizontal_flip(*tensors[i]),
        ),
        "vertical flip": (lambda i: samples.flip_vertically(squares[i]), None),
        "quarter turn": (lambda i: samples.turn(squares[i], 1), None),
        "copy-paste of all objects": (
            lambda i: copy_paste.paste(squares[i], squares[i - 1]),
            pasted,
        ),
        "all four changes of colours": (
            lambda i: transforms.distort(rng(i), squares[i], always),
            lambda i: theirs.distort(tensors[i][0], *colour_values(rng(i), always)),
        ),
        "masks and padding": (lambda i: pack.pack(squares[i], (SIDE, SIDE), config), None),
    }


def colour_values(rng: np.random.Generator, config: DataConfig) -> list[float]:
    """Draws a value for each change of colours."""
    names = ("brightness", "contrast", "saturation", "hue")
    return [float(rng.uniform(*getattr(config, name))) for name in names]


def measure_alone(function: Callable[[int], Any], num_images: int) -> float:
    """Measures images per second of processor time."""
    function(0)
    start = time.process_time()
    for i in range(num_images):
        function(i)
    return num_images / (time.process_time() - start)


def print_tables(result: dict[str, Any]) -> None:
    """Prints the medians of both tables, in images per second."""
    print(f"{result['cpu']}, one core, load {result['load']:.1f} to {result['load_after']:.1f}")
    print(f"{'of processor time':42}  {'images/s':>8}")
    base: list[float] = []
    for name, rounds in result["pipelines"].items():
        rates = [found["processor"] for found in rounds]
        base = rates if name.endswith("torchvision") else base
        ratio = statistics.median(a / b for a, b in zip(rates, base, strict=True))
        print(f"{name:42}  {statistics.median(rates):8.1f}  {ratio:5.2f}x")
    print(f"{'each alone':28}  {'OpenCV':>8}  {'without':>8}  {'torchvision':>11}")
    for name, columns in result["alone"].items():
        cells = [f"{statistics.median(x):8.0f}" if x else f"{'':8}" for x in columns.values()]
        print(f"{name:28}  {'  '.join(cells)}")


def main() -> int:
    """Prints both tables, and writes all figures on request."""
    args = inputs.parse(__doc__, num_images=40, rounds=5)
    torch.set_num_threads(1)
    images.use_one_thread()
    dataset = CocoDataset(args.images, args.annotations, keep_empty=False)
    contenders, single = pipelines(args, dataset), alone(args, dataset)
    result = inputs.machine() | {"batch_size": args.batch_size, "num_images": args.num_images}
    whole: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    parts = {name: {"opencv": [], "numpy": [], "torchvision": []} for name in single}
    for number in range(args.rounds):
        for name, open_batches in contenders.items():
            whole[name].append(inputs.measure(open_batches, args.num_images, args.batch_size))
        for name, (own, other) in single.items():
            for label, function in (("opencv", own), ("numpy", own), ("torchvision", other)):
                use_opencv(label == "opencv")
                if function is not None:
                    parts[name][label].append(measure_alone(function, args.num_images))
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    result |= {"load_after": os.getloadavg()[0], "pipelines": whole, "alone": parts}
    print_tables(result)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
