"""AP, speed and memory of a large image, window by window, against its parts one by one.

    python -m benchmarks.tiling --weights runs/nuclei --images data/nuclei/val \
        --annotations data/nuclei/instances_val.json

The images of the commonest size are put together to one canvas, in rows. `Detector` detects in each
image, `Detector.tiled` in the canvas, with windows of the size of an image. The seams of windows do
not follow the borders of images, so most objects at a border are seen whole by some window.
"""

import argparse
import math
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_jax import coco_metrics
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.images import read_image
from maskrcnn_jax.pasting import encode
from maskrcnn_jax.resizing import Size

KINDS = ("bbox", "segm")


def chosen(annotations: dict[str, Any], count: int) -> tuple[list[dict[str, Any]], Size]:
    """The first images of the commonest size, and this size."""
    sizes = Counter((image["height"], image["width"]) for image in annotations["images"])
    size = sizes.most_common(1)[0][0]
    own = [x for x in annotations["images"] if (x["height"], x["width"]) == size]
    return own[:count], size


def on_canvas(
    annotations: dict[str, Any], images: list[dict[str, Any]], size: Size, columns: int
) -> dict[str, Any]:
    """The annotations of the canvas, as those of one image with the id 1."""
    canvas = math.ceil(len(images) / columns) * size[0], columns * size[1]
    place = {image["id"]: divmod(i, columns) for i, image in enumerate(images)}
    objects = []
    for found in annotations["annotations"]:
        if found["image_id"] not in place:
            continue
        row, column = place[found["image_id"]]
        top, left = row * size[0], column * size[1]
        mask = rle.decode(found["segmentation"], *size).astype(bool)
        x, y, width, height = found["bbox"]
        moved = {"image_id": 1, "bbox": [x + left, y + top, width, height]}
        objects.append(found | moved | {"segmentation": encode(mask, (top, left), canvas)})
    image = {"id": 1, "height": canvas[0], "width": canvas[1]}
    return annotations | {"images": [image], "annotations": objects}


def main() -> None:
    """Prints the AP of both, and the speed and the memory of the canvas."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--annotations", required=True, type=Path)
    parser.add_argument("--count", type=int, default=64, help="images (default: 64)")
    parser.add_argument("--overlap", type=float, default=0.25)
    args = parser.parse_args()

    annotations = CocoDataset(args.images, args.annotations, keep_empty=True).annotations()
    images, size = chosen(annotations, args.count)
    columns = math.ceil(math.sqrt(len(images)))
    truth = on_canvas(annotations, images, size, columns)
    height, width = truth["images"][0]["height"], truth["images"][0]["width"]
    canvas = np.zeros((height, width, 3), np.uint8)
    detector = Detector.from_weights(args.weights)
    parts: list[dict[str, Any]] = []
    for i, image in enumerate(images):
        pixels = read_image(args.images / image["file_name"])
        top, left = i // columns * size[0], i % columns * size[1]
        canvas[top : top + size[0], left : left + size[1]] = pixels
        found = detector.detect(pixels, 0.05)
        moved = found.boxes + np.float32([left, top, left, top])
        patches = [(patch, (y + top, x + left)) for patch, (y, x) in found.patches]
        placed = found._replace(boxes=moved, patches=patches)
        parts += coco_metrics.coco_results(placed, (height, width), 1, detector.categories.ids)

    start = time.perf_counter()
    tiled = detector.tiled(size[0], args.overlap)
    found = tiled.detect(canvas, 0.05)
    seconds = time.perf_counter() - start
    whole = coco_metrics.coco_results(found, (height, width), 1, detector.categories.ids)

    print(f"{len(images)} images of {size[0]}x{size[1]} on a canvas of {height}x{width}")
    limit = max(len(parts), len(whole), 100)  # All detections of the canvas count.
    for name, results in (("one by one", parts), (f"{len(tiled.grid(canvas))} windows", whole)):
        numbers = [coco_metrics.coco_summary(truth, results, kind, limit)["AP"] for kind in KINDS]
        print(f"{name}: {len(results)} objects, box AP {numbers[0]:.4f}, mask AP {numbers[1]:.4f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{height * width / seconds / 1e6:.3f} million pixels/s, {peak:.2f} GiB at most")


if __name__ == "__main__":
    main()
