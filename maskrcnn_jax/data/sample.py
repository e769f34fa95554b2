"""An image between the data set and the batch: crops, resizes and flips it with its objects.

Boxes are float64 until they are packed. This precision recovers the annotated float32 boxes exactly
when a box is mapped back to the annotated image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn_jax import resizing
from maskrcnn_jax.data import masks
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.masks import PlacedMask
from maskrcnn_jax.images import Pixels


class Sample(NamedTuple):
    """An image with its objects, in pixels of this image.

    Do not modify the arrays: a transform returns a new sample.
    """

    image: Pixels
    boxes: Float[np.ndarray, "n 4"]  # x0 y0 x1 y1.
    classes: Int[np.ndarray, " n"]
    masks: list[PlacedMask | None]  # One for each box; None if the object has no mask.
    image_id: int
    num_removed: int = 0  # Objects of the image that were cut off or hidden.


class Window(NamedTuple):
    """A rectangle of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def whole(example: Example) -> Sample:
    """Makes a sample of a whole, unchanged image."""
    size = example.image.shape[:2]
    placed = [None if mask is None else masks.place(mask, size) for mask in example.masks]
    return Sample(
        example.image, example.boxes.astype(np.float64), example.classes, placed, example.image_id
    )


def select(sample: Sample, indices: Sequence[int] | Int[np.ndarray, " k"]) -> Sample:
    """Returns a sample with only the objects at the given indices, in this order."""
    indices = np.asarray(indices, int)
    chosen = [sample.masks[i] for i in indices]
    return sample._replace(
        boxes=sample.boxes[indices], classes=sample.classes[indices], masks=chosen
    )


def crop(sample: Sample, window: Window) -> Sample:
    """Crops a sample to a window.

    A box inside the window keeps its size. A box that the window cuts is tightened to the visible
    pixels of its mask. A cut object is dropped if no pixel of it is visible, or if a side of its
    box is below one pixel; ``num_removed`` counts it.
    """
    top, left, height, width = window
    boxes = sample.boxes - np.array([left, top, left, top])
    shown = np.clip(boxes, 0, np.array([width, height, width, height]))
    placed = [mask and _cropped(mask, window) for mask in sample.masks]
    is_cut = (shown != boxes).any(1)
    visible = (shown[:, 2:] > shown[:, :2]).all(1)
    for i in np.flatnonzero(is_cut & visible):
        if placed[i] is not None:
            part = masks.around(shown[i], (height, width))
            shown[i] = tighten(shown[i], masks.to_window(placed[i], *part), part)
    visible &= ~is_cut | (shown[:, 2:] - shown[:, :2] >= 1).all(1)
    image = sample.image[top : top + height, left : left + width]
    num_removed = sample.num_removed + int((~visible).sum())
    cut = sample._replace(image=image, boxes=shown, masks=placed, num_removed=num_removed)
    return select(cut, np.flatnonzero(visible))


def tighten(
    box: Float[np.ndarray, "4"], visible: Bool[np.ndarray, "h w"], window: Sequence[int]
) -> Float[np.ndarray, "4"]:
    """Cuts a box to the visible pixels of an object in a window; its area is 0 if there are none.

    ``window`` is a `Window`, or its four numbers.
    """
    bounds = masks.bounds(visible, *window[:2])
    return np.concatenate([np.maximum(box[:2], bounds[:2]), np.minimum(box[2:], bounds[2:])])


def _cropped(mask: PlacedMask, window: Window) -> PlacedMask:
    rows = mask.rows.crop(window.top, window.height)
    return mask._replace(rows=rows, columns=mask.columns.crop(window.left, window.width))


def resize(
    sample: Sample,
    size: tuple[int, int],
    resize_image: Callable[[np.ndarray, tuple[int, int]], np.ndarray] = resizing.resize_rounded,
) -> Sample:
    """Resizes a sample to ``size`` (height, width).

    Boxes are multiplied per axis by new / old, rounded to float32, as in torchvision.
    """
    old_size = sample.image.shape[:2]
    new, old = (np.array([width, height] * 2, np.float32) for height, width in (size, old_size))
    boxes = sample.boxes * (new / old).astype(np.float64)
    placed = [mask and _resized(mask, old_size, size) for mask in sample.masks]
    return sample._replace(image=resize_image(sample.image, size), boxes=boxes, masks=placed)


def _resized(mask: PlacedMask, old: tuple[int, int], new: tuple[int, int]) -> PlacedMask:
    rows, columns = mask.rows.resize(old[0], new[0]), mask.columns.resize(old[1], new[1])
    return mask._replace(rows=rows, columns=columns)


def pad(
    sample: Sample, size: tuple[int, int], value: float | int | Float[np.ndarray, " c"]
) -> Sample:
    """Fills up the image below and to the right to ``size`` (height, width).

    ``value`` is one for all channels, or one for each.
    """
    height, width, num_channels = sample.image.shape
    image = np.empty((*size, num_channels), sample.image.dtype)
    image[:height, :width] = sample.image
    # NumPy copies whole rows much faster than single pixels.
    row = np.full((size[1], num_channels), value, sample.image.dtype).reshape(-1)
    rows = image.reshape(size[0], -1)
    rows[height:] = row
    rows[:height, width * num_channels :] = row[width * num_channels :]
    return sample._replace(image=image)


def flip_horizontally(sample: Sample) -> Sample:
    """Mirrors the image, the boxes and the masks left to right."""
    width = sample.image.shape[1]
    x0, y0, x1, y1 = sample.boxes.T
    boxes = np.stack([width - x1, y0, width - x0, y1], axis=1)
    placed = [mask and mask._replace(columns=mask.columns.flip(width)) for mask in sample.masks]
    return sample._replace(image=resizing.mirror(sample.image), boxes=boxes, masks=placed)


def flip_vertically(sample: Sample) -> Sample:
    """Mirrors the image, the boxes and the masks top to bottom."""
    height = sample.image.shape[0]
    x0, y0, x1, y1 = sample.boxes.T
    boxes = np.stack([x0, height - y1, x1, height - y0], axis=1)
    placed = [mask and mask._replace(rows=mask.rows.flip(height)) for mask in sample.masks]
    return sample._replace(image=sample.image[::-1], boxes=boxes, masks=placed)


def transpose(sample: Sample) -> Sample:
    """Swaps the rows and the columns of the image, the boxes and the masks."""
    x0, y0, x1, y1 = sample.boxes.T
    boxes = np.stack([y0, x0, y1, x1], axis=1)
    placed = [mask and masks.transpose(mask) for mask in sample.masks]
    image = resizing.transpose(sample.image)
    return sample._replace(image=image, boxes=boxes, masks=placed)


def turn(sample: Sample, num_quarters: int) -> Sample:
    """Turns a sample counterclockwise by quarters, as `numpy.rot90` does."""
    quarters = num_quarters % 4
    if quarters == 1:
        return flip_vertically(transpose(sample))
    if quarters == 2:
        return flip_vertically(flip_horizontally(sample))
    return flip_horizontally(transpose(sample)) if quarters == 3 else sample
