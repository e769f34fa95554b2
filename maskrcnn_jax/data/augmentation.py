"""Random views of an example: which part of the image, at which size, flipped or not.

A view is cut from the annotations before anything is resized or flipped: the mask of an object is resampled once, from
its polygons or its bitmap, to a small grid that covers its box or to the size of the image, and a flip only turns that
grid round. Nothing here has a state; the caller passes the random generator.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from pycocotools import mask as coco_mask

from maskrcnn_jax import images
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import coco
from maskrcnn_jax.data.coco import Example, Mask


class Window(NamedTuple):
    """The part of an image that is used, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """What is random about one look at an image."""

    window: Window
    short_side: int  # Pixels after resizing.
    flip_horizontally: bool
    flip_vertically: bool


class Sample(NamedTuple):
    """An image on its way into a batch: resized, with the objects that found a slot."""

    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]  # x0 y0 x1 y1, pixels of the resized image.
    classes: Int[np.ndarray, " n"]
    masks: UInt8[np.ndarray, "n _ _"]  # 255 is inside the object, 0 outside; see `mask_crop` and `resized_mask`.
    num_surplus: int  # Objects that found no slot.


def draw(rng: np.random.Generator, size: tuple[int, int], config: DataConfig) -> View:
    """Draws a view of an image of ``size`` (height, width).

    Everything is drawn in any case, so that switching a flip on leaves windows and sizes as they were.
    """
    row, column, horizontal, vertical = rng.random(4)
    height, width = (side if config.crop_size is None else min(side, config.crop_size) for side in size)
    # A draw is below 1, so each of the (slack + 1) offsets is equally likely, and none is larger than the slack.
    top, left = int(row * (size[0] - height + 1)), int(column * (size[1] - width + 1))
    return View(
        window=Window(top, left, height, width),
        short_side=config.short_sides[int(rng.integers(len(config.short_sides)))],
        flip_horizontally=bool(horizontal < config.horizontal_flip),
        flip_vertically=bool(vertical < config.vertical_flip),
    )


def cut(
    example: Example,
    window: Window,
    size: tuple[int, int],
    resize: Callable[[np.ndarray, tuple[int, int]], np.ndarray],
    config: DataConfig,
) -> Sample:
    """Takes a window out of an example and resizes it to ``size`` (height, width).

    Objects without extent are left out. Of the others the first ``max_instances`` are taken, in the order of the
    annotations, and the rest is counted. Boxes are multiplied per axis by float32 new / old, torchvision's rule.
    """
    top, left, height, width = window
    boxes, keep = visible_boxes(example, window)
    scale = np.array([size[1], size[0]] * 2, np.float32) / np.array([width, height] * 2, np.float32)
    resized = (boxes - np.array([left, top] * 2, np.float32)) * scale
    visible = np.flatnonzero(keep & (resized[:, 2:] > resized[:, :2]).all(1))
    chosen = visible[: config.max_instances]
    full = config.mask_store == "full"
    masks = np.zeros((len(chosen), *(size if full else (config.mask_size, config.mask_size))), np.uint8)
    for slot, i in enumerate(chosen):
        if full:
            masks[slot] = resized_mask(example.masks[i], example.image.shape[:2], window, size)
        else:
            masks[slot] = mask_crop(example.masks[i], boxes[i], config.mask_size)
    return Sample(
        image=resize(example.image[top : top + height, left : left + width], size),
        boxes=resized[chosen],
        classes=example.classes[chosen],
        masks=masks,
        num_surplus=len(visible) - len(chosen),
    )


def visible_boxes(example: Example, window: Window) -> tuple[Float[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """Shrinks the boxes to what the window shows of their objects.

    An object that lies inside keeps its annotated box; where the window cuts one, the box is tightened to the pixels
    of the mask that are still to be seen.

    Returns:
        boxes: in pixels of the whole image, not of the window.
        keep: objects with an extent; of those that were cut, at least one visible pixel and sides of a pixel.
    """
    near = np.array([window.left, window.top], np.float32)
    far = near + np.array([window.width, window.height], np.float32)
    boxes = np.concatenate([np.maximum(example.boxes[:, :2], near), np.minimum(example.boxes[:, 2:], far)], axis=1)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    cut = keep & (boxes != example.boxes).any(1)
    size = example.image.shape[:2]
    for i in np.flatnonzero(cut):
        boxes[i] = _tightened(boxes[i], coco.rle(example.masks[i], *size), _encode_window(window, size))
    keep &= ~cut | (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    return boxes, keep


def _tightened(box: Float[np.ndarray, "4"], mask: dict, window: dict) -> Float[np.ndarray, "4"]:
    left, top, width, height = coco_mask.toBbox(coco_mask.merge([mask, window], intersect=True))
    near, far = np.array([left, top]), np.array([left + width, top + height])
    return np.concatenate([np.maximum(box[:2], near), np.minimum(box[2:], far)]).astype(np.float32)


def _encode_window(window: Window, size: tuple[int, int]) -> dict:
    corners = np.array([[window.left, window.top, window.width, window.height]], np.float64)
    return coco_mask.frPyObjects(corners, *size)[0]


def mask_crop(
    mask: Mask, box: Float[np.ndarray, "4"], mask_size: int = 112
) -> UInt8[np.ndarray, "{mask_size} {mask_size}"]:
    """Resamples the mask of an object to a grid that covers its box.

    Cell (i, j) stands for the area from ``x0 + j * w / mask_size`` to ``x0 + (j + 1) * w / mask_size``, and the same
    in y. 255 is inside, 0 outside. Polygons are rasterised on the grid itself, so they lose nothing to the resolution
    of the image; a bitmap is interpolated, and antialiased where it shrinks.

    Args:
        mask: polygons, or a compressed RLE.
        box: of positive extent and inside the image; what exceeds it by rounding is cut off.
    """
    if isinstance(mask, dict):
        return _resample(mask, box, mask_size)
    origin, scale = box[:2].astype(np.float64), mask_size / (box[2:] - box[:2]).astype(np.float64)
    scaled = [((np.reshape(polygon, (-1, 2)) - origin) * scale).ravel() for polygon in mask]
    return coco.decode_mask(scaled, mask_size, mask_size) * np.uint8(255)


def _resample(mask: dict, box: Float[np.ndarray, "4"], mask_size: int) -> UInt8[np.ndarray, "{mask_size} {mask_size}"]:
    limits = np.array(mask["size"][::-1])
    near, far = np.clip(box[:2], 0, limits), np.clip(box[2:], 0, limits)
    # The filter reaches one cell beyond the box, or one pixel if that is more.
    reach = np.maximum((far - near) / mask_size, 1)
    left, top = np.maximum(np.floor(near - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(far + reach), limits).astype(int)
    picture = Image.fromarray(_decode_part(mask, slice(top, bottom), slice(left, right)))
    corners = (near[0] - left, near[1] - top, far[0] - left, far[1] - top)
    return np.asarray(picture.resize((mask_size, mask_size), Image.Resampling.BILINEAR, box=corners))


def _decode_part(mask: dict, rows: slice, columns: slice) -> UInt8[np.ndarray, "h w"]:
    """Decodes a part of a mask, 0 or 255: with hundreds of objects in an image, whole bitmaps would take too long."""
    height = mask["size"][0]
    lengths = coco.run_lengths(mask["counts"])
    # The runs go down the columns, so whole columns are contiguous.
    ends = np.clip(np.cumsum(lengths), columns.start * height, columns.stop * height)
    values = np.arange(len(lengths)) % 2 * 255
    pixels = np.repeat(values.astype(np.uint8), np.diff(ends, prepend=columns.start * height))
    return np.ascontiguousarray(pixels.reshape(-1, height)[:, rows].T)


def resized_mask(
    mask: Mask, image_size: tuple[int, int], window: Window, size: tuple[int, int]
) -> UInt8[np.ndarray, "{size[0]} {size[1]}"]:
    """The bitmap of a window of an image of ``image_size``, resized to ``size``: 255 inside the object, 0 outside.

    Polygons are rasterised at the size of the image. A pixel is taken from ``floor(i * old / new)`` in float32, the
    rule of PyTorch's "nearest"; up to a pixel off the image, which is resized by its pixels' centres.
    """
    top, left, height, width = window
    bitmap = coco.decode_mask(mask, *image_size)[top : top + height, left : left + width]
    rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
    return bitmap[rows.reshape(-1, 1), columns] * np.uint8(255)


def _nearest(old: int, new: int) -> Int[np.ndarray, " {new}"]:
    source = np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
    return np.minimum(np.floor(source).astype(int), old - 1)


def flip_horizontally(sample: Sample) -> Sample:
    """Exchanges left and right of the image, of the boxes, and of the masks."""
    x0, y0, x1, y1 = sample.boxes.T
    width = np.float32(sample.image.shape[1])
    boxes = np.stack([width - x1, y0, width - x0, y1], axis=1)
    return sample._replace(image=images.mirror(sample.image), boxes=boxes, masks=sample.masks[:, :, ::-1])


def flip_vertically(sample: Sample) -> Sample:
    """Exchanges top and bottom of the image, of the boxes, and of the masks."""
    x0, y0, x1, y1 = sample.boxes.T
    height = np.float32(sample.image.shape[0])
    boxes = np.stack([x0, height - y1, x1, height - y0], axis=1)
    return sample._replace(image=sample.image[::-1], boxes=boxes, masks=sample.masks[:, ::-1])
