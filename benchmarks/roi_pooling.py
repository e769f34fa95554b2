"""What RoIAlign and RoIPool do when a box moves by fractions of a cell: the figure of docs/roialign.md.

    python benchmarks/roi_pooling.py --weights runs/nuclei --images DIR --annotations JSON --output docs/roialign.png

Writes the figure, and its numbers beside it as JSON. The boxes are those of the annotated objects, the features P2 of
the trained model, whose cells are 4 pixels wide; all boxes are pooled 7x7 from it. Needs matplotlib.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from maskrcnn_jax import images
from maskrcnn_jax.data.coco import CocoDataset, Example
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops.roi_align import multilevel_roi_align
from maskrcnn_jax.ops.roi_pool import multilevel_roi_pool
from maskrcnn_jax.weights import loading
from maskrcnn_jax.weights.loading import LoadedModel

STRIDE = 4  # Pixels of a cell of P2.
FINE = np.arange(0, 2 * STRIDE + 0.01, 0.125)  # Pixels by which boxes move over the features,
WHOLE = range(2 * STRIDE + 1)  # and by which images move.
MARGIN = 16  # Pixels around the image, of its mean colour, so that it can move.
OPERATIONS = {
    "RoIAlign": partial(multilevel_roi_align, resolution=7, sampling_ratio=2, aligned=False),
    "RoIPool": partial(multilevel_roi_pool, resolution=7),
}
COLORS = {"RoIAlign": "#1f6fb4", "RoIPool": "#d1495b"}


class Scene(NamedTuple):
    """An image with its objects."""

    boxes: np.ndarray  # [n, 4], in pixels of the image as the network sees it, without the margin.
    features: list[jax.Array]  # P2 of the image moved to the right by 0, 1, 2 ... pixels: [h, w, c].


def look(example: Example, loaded: LoadedModel, extract: Callable[[np.ndarray], jax.Array]) -> Scene:
    """Prepares an image; objects at its border, and those less than two cells wide or high, are left out."""
    shape, data = example.image.shape, loaded.config.data
    size = images.resized_size(shape[:2], data.test_short_side, data.test_max_long_side)
    boxes = example.boxes * np.array([size[1] / shape[1], size[0] / shape[0]] * 2, np.float32)
    inside = (boxes[:, :2] > MARGIN).all(axis=1) & (boxes[:, 2:] < np.array(size[::-1]) - MARGIN).all(axis=1)
    large = (boxes[:, 2:] - boxes[:, :2] >= 2 * STRIDE).all(axis=1)
    if (inside & large).sum() < 10:
        return Scene(boxes[:0], [])
    resized = images.resize(example.image, size)
    bucket = images.ceil32((size[0] + 2 * MARGIN, size[1] + 2 * MARGIN))
    features = []
    for shift in WHOLE:
        padded = np.tile(np.array(loaded.config.model.image_mean, np.float32), (*bucket, 1))
        padded[MARGIN : MARGIN + size[0], MARGIN + shift : MARGIN + shift + size[1]] = resized
        features.append(extract(padded))
    return Scene(boxes[inside & large], features)


def extractor(loaded: LoadedModel) -> Callable[[np.ndarray], jax.Array]:
    """P2 of a padded image."""
    model = MaskRCNN(loaded.config.model)

    @jax.jit
    def finest(variables: Any, image: jax.Array) -> jax.Array:
        size = jnp.array([image.shape[:2]])
        return model.apply(variables, image[None], size, size, method="features")[2][0]

    return lambda image: finest(loaded.variables, jnp.asarray(image))


@partial(jax.jit, static_argnames="operation")
def pool(features: jax.Array, boxes: jax.Array, operation: str) -> jax.Array:
    """One row of numbers for each box, which is given without the margin."""
    canvas = STRIDE * jnp.array(features.shape[:2])
    pooled = OPERATIONS[operation]({2: features}, boxes + MARGIN, canvas)
    return pooled.reshape(len(boxes), -1)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between rows, as a root of mean squares."""
    return np.sqrt(((a - b) ** 2).mean(axis=1))


def moved(boxes: np.ndarray, shift: float) -> jax.Array:
    """To the right."""
    return jnp.asarray(boxes + np.array([shift, 0, shift, 0]), jnp.float32)


def measure(scene: Scene, operation: str) -> dict[str, np.ndarray]:
    """How pooled features change, by box: their distance, over the median distance to another object's features."""
    still = scene.features[0]
    first = np.asarray(pool(still, moved(scene.boxes, 0), operation))
    others = np.median([distance(first, np.roll(first, i, axis=0)) for i in range(1, len(first))])
    boxes_move = np.stack([np.asarray(pool(still, moved(scene.boxes, x), operation)) for x in FINE])
    all_move = [pool(x, moved(scene.boxes, i), operation) for i, x in zip(WHOLE, scene.features, strict=True)]
    return {
        "box": np.stack([distance(x, first) for x in boxes_move]) / others,  # [fine, n]
        "step": np.stack([distance(x, y) for x, y in zip(boxes_move[1:], boxes_move, strict=False)]) / others,
        "image": np.stack([distance(np.asarray(x), first) for x in all_move]) / others,  # [whole, n]
    }


def draw(results: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Left, one box that moves over the features; right, all boxes, which move with the image."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for operation, result in results.items():
        color = COLORS[operation]
        box = np.argsort(results["RoIAlign"]["box"][-1])[len(result["box"][-1]) // 2]  # The median of RoIAlign.
        left.plot(FINE, result["box"][:, box], color=color, label=operation)
        low, middle, high = np.quantile(result["image"], [0.25, 0.5, 0.75], axis=1)
        right.plot(WHOLE, middle, "o-", color=color, label=operation)
        right.fill_between(WHOLE, low, high, color=color, alpha=0.2, linewidth=0)
    left.set(title="One box moves over the features", xlabel="pixels (a cell has 4)", ylabel="change of what is pooled")
    right.set(title="Image and box move together", xlabel="pixels (a cell has 4)", ylabel="error of what is pooled")
    for axes in (left, right):
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def summary(results: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """The numbers of the page."""
    return {
        operation: {
            "num_boxes": result["image"].shape[1],
            "steps_without_change": float((result["step"] == 0).mean()),
            "largest_step": float(np.median(result["step"].max(axis=0))),
            "change_after_half_a_cell": float(np.median(result["box"][len(result["box"]) // 4])),
            "error_by_pixels": dict(zip(WHOLE, np.median(result["image"], axis=1).tolist(), strict=True)),
        }
        for operation, result in results.items()
    }


def main() -> None:
    """Measures, draws, and prints the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="of a trained model, as for maskrcnn-jax predict")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR")
    parser.add_argument("--annotations", required=True, type=Path, metavar="JSON")
    parser.add_argument("--num-images", default=4, type=int, help="the first that have ten objects (default: 4)")
    parser.add_argument("--output", required=True, type=Path, metavar="PNG")
    args = parser.parse_args()

    loaded = loading.load(args.weights)
    dataset, extract = CocoDataset(args.images, args.annotations, keep_empty=False), extractor(loaded)
    scenes = (look(dataset[i], loaded, extract) for i in range(len(dataset)))
    chosen = itertools.islice((scene for scene in scenes if len(scene.boxes)), args.num_images)
    measured: dict[str, list[dict[str, np.ndarray]]] = {operation: [] for operation in OPERATIONS}
    for scene in chosen:
        for operation in OPERATIONS:
            measured[operation].append(measure(scene, operation))
    results = {
        operation: {name: np.concatenate([x[name] for x in found], axis=1) for name in found[0]}
        for operation, found in measured.items()
    }
    draw(results, args.output)
    numbers = json.dumps(summary(results), indent=1)
    args.output.with_suffix(".json").write_text(numbers + "\n")
    print(numbers)


if __name__ == "__main__":
    main()
