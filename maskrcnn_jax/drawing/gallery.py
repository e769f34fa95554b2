"""Draws images of a data set with detections, with annotations, and as training augments them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maskrcnn_jax import pasting, visualize, whole_files
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Dataset, Example
from maskrcnn_jax.drawing import captions
from maskrcnn_jax.structures import Batch, Crops

SCORE_THRESHOLD = 0.5  # Evaluation keeps lower scores, whose drawings would hide the others.
# Long side of a drawing in pixels: names are legible, and sheets are not huge.
LONG_SIDE = 640

Drawing = UInt8[np.ndarray, "_ _ 3"]


def write(
    path: str | Path,
    dataset: Dataset,
    detections: Sequence[dict],
    categories: Categories,
    *,
    count: int = 12,
) -> None:
    """Draws detections over images of a data set, in rows of four.

    Args:
        path: The image file to write.
        dataset: The images.
        detections: COCO results; without "segmentation" only boxes are drawn.
        categories: The categories of the detections.
        count: Number of images, taken evenly from the data set.
    """
    drawings = [found(dataset[i], detections, categories) for i in evenly(len(dataset), count)]
    sheet = Image.fromarray(visualize.contact_sheet(drawings, columns=4))
    with whole_files.replacing(path) as temporary:
        sheet.save(temporary)


def samples(
    dataset: Dataset, detections: Sequence[dict], categories: Categories, *, count: int = 4
) -> dict[str, Drawing]:
    """Draws detections over some images of a data set; arguments as in `write`.

    Returns:
        The drawings by name, "predictions/image ID".
    """
    examples = [dataset[i] for i in evenly(len(dataset), count)]
    return {f"predictions/image {x.image_id}": found(x, detections, categories) for x in examples}


def evenly(length: int, count: int) -> list[int]:
    """Returns at most ``count`` evenly spaced indices of a sequence, first and last included."""
    positions = np.linspace(0, length - 1, min(count, length))
    return np.unique(positions.round().astype(int)).tolist()


def found(example: Example, detections: Sequence[dict], categories: Categories) -> Drawing:
    """Draws the detections of an image.

    Args:
        example: The image.
        detections: COCO results, possibly of other images too.
        categories: The categories of the detections.
    """
    height, width = example.image.shape[:2]
    own = [d for d in detections if d["image_id"] == example.image_id]
    shown = [d for d in own if d["score"] > SCORE_THRESHOLD]
    return visualize.draw(
        example.image,
        _corners([d["bbox"] for d in shown]),
        [categories.label(d["category_id"]) for d in shown],
        [d["score"] for d in shown],
        _masks(shown, height, width),
        categories.names,
        scale=LONG_SIDE / max(height, width),
    )


def annotated(
    example: Example,
    crowds: Sequence[dict],
    categories: Categories,
    long_side: int = LONG_SIDE,
) -> Drawing:
    """Draws the ground truth of an image, with a title that counts its objects.

    Args:
        example: The image and its objects.
        crowds: COCO annotations of its crowds. Crowds without a mask are counted but not drawn.
        categories: The categories of the objects.
        long_side: Long side of the drawing, in pixels.
    """
    height, width = example.image.shape[:2]
    regions = [crowd for crowd in crowds if crowd.get("segmentation")]
    nothing = np.zeros((height, width), np.uint8)
    masks = [nothing if mask is None else rle.decode(mask, height, width) for mask in example.masks]
    hatched = [rle.decode(crowd["segmentation"], height, width) for crowd in regions]
    drawing = visualize.draw(
        example.image,
        np.concatenate([example.boxes, *(_bounds(mask)[None] for mask in hatched)]),
        example.classes.tolist() + [categories.label(crowd["category_id"]) for crowd in regions],
        None,
        masks + hatched,
        categories.names,
        crowd=[False] * len(masks) + [True] * len(hatched),
        scale=long_side / max(height, width),
    )
    count = _counted(len(example.boxes), "object")
    title = f"image {example.image_id}: {height}x{width}, {count}"
    if crowds:
        title += f", {_counted(len(crowds), 'crowd')}"
    return captions.title(drawing, title)


def varied(row: Batch, categories: Categories, title: str, long_side: int = LONG_SIDE) -> Drawing:
    """Draws an image after the transforms of training, with the objects and masks of its slots.

    Args:
        row: One image of a batch, without the axis b, as `pack.pack` returns it.
        categories: The categories of the objects.
        title: The start of the title.
        long_side: Long side of the drawing, in pixels.
    """
    height, width = row.sizes.tolist()
    image, count = row.images[:height, :width], int(row.instances.valid.sum())
    boxes, classes = row.instances.boxes[:count], row.instances.classes[:count]
    values = row.instances.masks.values[:count] / np.float32(255)
    if isinstance(row.instances.masks, Crops):
        pairs = zip(values, boxes, strict=True)
        masks = [pasting.paste_in_box(mask, box, (height, width)) for mask, box in pairs]
    else:
        masks = list(values[:, :height, :width])
    scale = long_side / max(height, width)
    drawing = visualize.draw(image, boxes, classes, None, masks, categories.names, scale=scale)
    title = f"{title}: {height}x{width}, {_counted(count, 'object')}"
    if row.num_removed:
        title += f", {row.num_removed} removed"
    if row.num_surplus:
        title += f", {row.num_surplus} without a slot"
    return captions.title(drawing, title)


def _masks(detections: Sequence[dict], height: int, width: int) -> list[np.ndarray] | None:
    """Decodes the masks of COCO results. Returns None if a result has no mask."""
    if not all("segmentation" in d for d in detections):
        return None
    return [rle.decode(d["segmentation"], height, width) for d in detections]


def _corners(boxes: Sequence[Sequence[float | int]]) -> np.ndarray:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]  # COCO's boxes are x, y, width, height.
    return corners


def _bounds(mask: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
