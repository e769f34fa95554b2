"""Draws the figure of docs/roialign.md: RoIAlign and RoIPool of boxes that move by subcells.

    python benchmarks/roi_pooling.py --weights W --images DIR --annotations JSON --output FILE.png

Writes the figure, and its numbers beside it as JSON. The boxes are those of annotated objects. The
features are P2 of a trained model, whose cells are 4 pixels wide. All boxes are pooled to 7x7 from
P2. Needs matplotlib.
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

from maskrcnn_jax import execution, resizing
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.ops.roi_pooling.align import multilevel_roi_align
from maskrcnn_jax.ops.roi_pooling.maxima import multilevel_roi_pool
from maskrcnn_jax.weights import loading
from maskrcnn_jax.weights.loading import LoadedModel

STRIDE = 4  # Pixels per cell of P2.
FINE = np.arange(0, 2 * STRIDE + 0.01, 0.125)  # Shifts of boxes over fixed features, in pixels.
WHOLE = range(2 * STRIDE + 1)  # Shifts of images with their boxes, in pixels.
MARGIN = 16  # Pixels of mean colour around an image, so that the image can move.
OPERATIONS = {
    "RoIAlign": partial(multilevel_roi_align, resolution=7, sampling_ratio=2, aligned=False),
    "RoIPool": partial(multilevel_roi_pool, resolution=7),
}
COLORS = {"RoIAlign": "#1f6fb4", "RoIPool": "#d1495b"}


class Scene(NamedTuple):
    """An image with its objects."""

    boxes: np.ndarray  # [n, 4] in pixels of the resized image, without the margin.
    features: list[jax.Array]  # P2, [h, w, c], of the image moved to the right by each of `WHOLE`.


def look(
    example: Example, loaded: LoadedModel, extract: Callable[[np.ndarray], jax.Array]
) -> Scene:
    """Prepares an image; skips objects at the border, and those below two cells in size."""
    shape, data = example.image.shape, loaded.config.data
    size = resizing.resized_size(shape[:2], data.test_short_side, data.test_max_long_side)
    boxes = example.boxes * np.array([size[1] / shape[1], size[0] / shape[0]] * 2, np.float32)
    inside = (boxes[:, :2] > MARGIN).all(axis=1)
    inside &= (boxes[:, 2:] < np.array(size[::-1]) - MARGIN).all(axis=1)
    large = (boxes[:, 2:] - boxes[:, :2] >= 2 * STRIDE).all(axis=1)
    if (inside & large).sum() < 10:
        return Scene(boxes[:0], [])
    resized = resizing.resize(example.image, size)
    bucket = resizing.ceil32((size[0] + 2 * MARGIN, size[1] + 2 * MARGIN))
    features, mean = [], np.array(loaded.config.model.image_mean, np.float32)
    for shift in WHOLE:
        padded, left = np.tile(mean, (*bucket, 1)), MARGIN + shift
        padded[MARGIN : MARGIN + size[0], left : left + size[1]] = resized
        features.append(extract(padded))
    return Scene(boxes[inside & large], features)


def extractor(loaded: LoadedModel) -> Callable[[np.ndarray], jax.Array]:
    """Makes a function that computes P2 of a padded image."""
    run = execution.choose(loaded.config.execution)
    model = MaskRCNN(loaded.config.model, run=run)

    @run.jit
    def finest(variables: Any, image: jax.Array) -> jax.Array:
        size = jnp.array([image.shape[:2]])
        return model.apply(variables, image[None], size, size, method="features")[2][0]

    return lambda image: finest(loaded.variables, jnp.asarray(image))


@partial(jax.jit, static_argnames="operation")
def pool(features: jax.Array, boxes: jax.Array, operation: str) -> jax.Array:
    """Pools boxes, in pixels of the image without the margin, to one row of features each."""
    canvas = STRIDE * jnp.array(features.shape[:2])
    pooled = OPERATIONS[operation]({2: features}, boxes + MARGIN, canvas)
    return pooled.reshape(len(boxes), -1)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The root mean square difference of each pair of rows."""
    return np.sqrt(((a - b) ** 2).mean(axis=1))


def moved(boxes: np.ndarray, shift: float) -> jax.Array:
    """Moves boxes to the right by a number of pixels."""
    return jnp.asarray(boxes + np.array([shift, 0, shift, 0]), jnp.float32)


def measure(scene: Scene, operation: str) -> dict[str, np.ndarray]:
    """Measures the change of the pooled features of each moved box.

    The change is relative to the median distance to the features of another object.
    """
    still = scene.features[0]

    def pool_moved(features: jax.Array, shift: float) -> np.ndarray:
        return np.asarray(pool(features, moved(scene.boxes, shift), operation))

    first = pool_moved(still, 0)
    rolled = [np.roll(first, i, axis=0) for i in range(1, len(first))]
    others = np.median([distance(first, x) for x in rolled])
    fine = [pool_moved(still, x) for x in FINE]
    whole = [pool_moved(x, i) for i, x in zip(WHOLE, scene.features, strict=True)]
    steps = zip(fine[1:], fine, strict=False)
    return {
        "box": np.stack([distance(x, first) for x in fine]) / others,  # [fine, n]
        "step": np.stack([distance(x, y) for x, y in steps]) / others,
        "image": np.stack([distance(x, first) for x in whole]) / others,  # [whole, n]
    }


def draw(results: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draws the changes for one box that moves over the features, and for all moving images."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for operation, result in results.items():
        color = COLORS[operation]
        last = results["RoIAlign"]["box"][-1]
        box = np.argsort(last)[len(last) // 2]  # The box with the median change.
        left.plot(FINE, result["box"][:, box], color=color, label=operation)
        low, middle, high = np.quantile(result["image"], [0.25, 0.5, 0.75], axis=1)
        right.plot(WHOLE, middle, "o-", color=color, label=operation)
        right.fill_between(WHOLE, low, high, color=color, alpha=0.2, linewidth=0)
    left.set(title="One box moves over the features", ylabel="change of what is pooled")
    right.set(title="Image and box move together", ylabel="error of what is pooled")
    for axes in (left, right):
        axes.set(xlim=(0, None), ylim=(0, None), xlabel="pixels (a cell has 4)")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def summary(results: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """The numbers that docs/roialign.md quotes."""
    found = {}
    for operation, result in results.items():
        errors = np.median(result["image"], axis=1).tolist()
        found[operation] = {
            "num_boxes": result["image"].shape[1],
            "steps_without_change": float((result["step"] == 0).mean()),
            "largest_step": float(np.median(result["step"].max(axis=0))),
            "change_after_half_a_cell": float(np.median(result["box"][len(result["box"]) // 4])),
            "error_by_pixels": dict(zip(WHOLE, errors, strict=True)),
        }
    return found


def main() -> None:
    """Measures, draws, and prints the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", required=True, help="of a trained model, as for maskrcnn-jax predict")
    add("--images", required=True, type=Path, metavar="DIR")
    add("--annotations", required=True, type=Path, metavar="JSON")
    add("--num-images", default=4, type=int, help="the first with ten objects (default: 4)")
    add("--output", required=True, type=Path, metavar="PNG")
    args = parser.parse_args()

    loaded = loading.load(args.weights)
    dataset = CocoDataset(args.images, args.annotations, keep_empty=False)
    extract = extractor(loaded)
    scenes = (look(dataset[i], loaded, extract) for i in range(len(dataset)))
    chosen = itertools.islice((scene for scene in scenes if len(scene.boxes)), args.num_images)
    measured: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in OPERATIONS}
    for scene in chosen:
        for operation, found in measured.items():
            found.append(measure(scene, operation))
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
