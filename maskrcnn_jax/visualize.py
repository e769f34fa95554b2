"""Draws objects over an image: translucent masks with smooth outlines, boxes, names, scores."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Num, Shaped, UInt8, UInt16
from PIL import Image, ImageDraw, ImageFilter

from maskrcnn_jax import images
from maskrcnn_jax.drawing import captions, colors, fonts

Patch = tuple[np.ndarray, tuple[int, int]]  # Probabilities, and the (y, x) of their first pixel.
Masks = Sequence[Patch | np.ndarray] | Shaped[np.ndarray, "n h w"] | Shaped[np.ndarray, "n 1 h w"]

_OPACITY = 107  # Opacity of the masks, from 0 to 255.
_LINE_SHARE = 1 / 400  # Width of mask outlines, as a fraction of the image's short side.
_FRAME_SHARE = 0.75  # Width of box lines, as a fraction of the width of mask outlines.
_ROWS_PER_BAND = 1024  # Rows blended at once: 12,000 by 12,000 pixels would take gigabytes.
_CROWD_COLOR = np.array([235, 235, 235], np.uint8)


def draw(
    image: Shaped[np.ndarray, "..."],
    boxes: Num[np.ndarray, "n 4"],
    labels: Sequence[int] | Num[np.ndarray, " n"],
    scores: Sequence[float] | Num[np.ndarray, " n"] | None,
    masks: Masks | None = None,
    names: Sequence[str] = (),
    *,
    crowd: Sequence[bool] | Bool[np.ndarray, " n"] | None = None,
    color_by_class: bool = False,
    scale: float | int = 1,
) -> UInt8[np.ndarray, "sh sw 3"]:
    """Draws detections or ground truth over an image.

    Larger objects are drawn first, whatever their scores, so that they do not hide smaller ones. A
    pixel has the tint of only the smallest object that covers it, because mixed tints would belong
    to no object. Line widths and letters scale with the image. If there is no space for all names,
    objects of high score (without scores: large objects) get theirs first.

    Args:
        image: An array that `images.as_rgb` accepts: RGB, grey or with alpha; uint8, uint16 or
            floating point in [0, 1].
        boxes: x0, y0, x1, y1 in pixels of the image; parts outside the image are not drawn.
        labels: From 1 to the number of names.
        scores: In [0, 1]; None for ground truth.
        masks: Probabilities or binary masks, as (patch, offset) or full-size; None to draw boxes
            only.
        names: The names of the labels 1, 2, ...
        crowd: Whether each mask is a region of many objects. Such regions are hatched.
        color_by_class: Whether objects of a class share a colour, the same in all images. By
            default each object has its own colour.
        scale: Factor by which the drawing is larger than the image. Small images need a large one
            for legible names.

    Returns:
        The drawing, RGB.

    Raises:
        ValueError: The image is invalid, the other arguments differ in length, a label has no name,
            a box is not finite, or a full-size mask differs in size from the image.
    """
    labels = np.asarray(labels, int)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool)
    rgb = images.as_rgb(image)
    _check(rgb.shape[:2], boxes, labels, scores, masks, names, crowd)
    canvas = _resized(rgb, scale)
    boxes = np.clip(np.asarray(boxes, float) * scale, 0, np.array(canvas.size * 2)[None])
    palette = colors.by_class(labels) if color_by_class else colors.by_instance(boxes)
    palette = np.where(crowd[:, None], _CROWD_COLOR[None], palette)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = np.lexsort((-areas, ~crowd))  # Crowds first, then by descending area.
    patches = None
    if masks is not None:
        patches = [_pixels(mask, scale, canvas.size) for mask in masks]
    _paint(canvas, patches, boxes, palette, crowd, order)
    importance = areas if scores is None else np.asarray(scores)
    texts = _texts(labels, scores, names, crowd)
    captions.write(canvas, texts, boxes, palette, np.argsort(-importance, kind="stable"))
    return np.array(canvas)


def _check(
    size: Sequence[int],
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: Any,
    masks: Masks | None,
    names: Sequence[str],
    crowd: np.ndarray,
) -> None:
    counts = {"labels": len(labels), "crowd flags": len(crowd)}
    counts |= {} if scores is None else {"scores": len(scores)}
    counts |= {} if masks is None else {"masks": len(masks)}
    for name, count in counts.items():
        if count != len(boxes):
            raise ValueError(f"expected as many {name} as boxes, {len(boxes)}, got {count}")
    unknown = labels[(labels < 1) | (labels > len(names))]
    if len(unknown):
        raise ValueError(
            f"expected labels from 1 to {len(names)}, the number of names, got {unknown[0]}"
        )
    if not np.isfinite(boxes).all():
        raise ValueError(f"expected finite boxes, got {boxes[~np.isfinite(boxes).all(1)][0]}")
    for mask in () if masks is None else masks:
        if not isinstance(mask, tuple) and mask.shape[-2:] != tuple(size):
            expected = f"expected full masks of the size of the image, {tuple(size)}"
            raise ValueError(f"{expected}, got {mask.shape[-2:]}")


def _resized(image: Shaped[np.ndarray, "h w 3"], scale: float | int) -> Image.Image:
    if image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def _pixels(mask: Patch | np.ndarray, scale: float | int, size: tuple[int, int]) -> Patch:
    """Converts a mask to a patch of the drawing: 255 inside, 0 outside.

    ``size`` is the width and height of the drawing.
    """
    patch, (top, left) = mask if isinstance(mask, tuple) else _cut(mask)
    if not patch.size:
        return np.zeros((0, 0), np.uint8), (0, 0)
    if scale != 1:
        patch, (top, left) = _resample(patch, (top, left), scale)
    rows = slice(max(-top, 0), max(size[1] - top, 0))
    columns = slice(max(-left, 0), max(size[0] - left, 0))
    inside = patch[rows, columns] > 0.5
    return inside * np.uint8(255), (max(top, 0), max(left, 0))


def _cut(mask: Shaped[np.ndarray, "... h w"]) -> Patch:
    """Crops a full-size mask to the bounding box of its inside."""
    mask = mask.reshape(mask.shape[-2:]) > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask[:0, :0], (0, 0)
    patch = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return patch, (int(rows[0]), int(columns[0]))


def _resample(patch: np.ndarray, offset: tuple[int, int], scale: float | int) -> Patch:
    """Resamples a patch to the whole pixels of an image ``scale`` times as large."""
    edge = math.ceil(1 / scale)  # Padding of at least one output pixel, in input pixels.
    (y, x), (height, width) = offset, patch.shape
    top, bottom = math.floor(y * scale), math.ceil((y + height) * scale)
    left, right = math.floor(x * scale), math.ceil((x + width) * scale)
    # The output rectangle in pixels of the padded patch.
    x0, x1 = (end / scale - x + edge for end in (left, right))
    y0, y1 = (end / scale - y + edge for end in (top, bottom))
    padded = Image.fromarray(np.pad(patch.astype(np.float32), edge))
    size = right - left, bottom - top
    resized = padded.resize(size, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
    return np.asarray(resized), (top, left)


def _paint(
    canvas: Image.Image,
    patches: Sequence[Patch] | None,
    boxes: np.ndarray,
    palette: UInt8[np.ndarray, "n 3"],
    crowd: Bool[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
) -> None:
    """Draws the boxes and masks of all objects in the given order."""
    line = max(1.0, min(canvas.size) * _LINE_SHARE)
    if patches is not None:
        _fill(canvas, patches, palette, crowd, order, line)
    pen = ImageDraw.Draw(canvas)
    for i in order:
        color = tuple(palette[i].tolist())
        x0, y0, x1, y1 = np.rint(boxes[i]).astype(int).tolist()
        width = max(1, round(_FRAME_SHARE * line))
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=color, width=width)
        if patches is not None:
            inside, offset = patches[i]
            _outline(canvas, inside, offset, color, line)


def _fill(
    canvas: Image.Image,
    patches: Sequence[Patch],
    palette: UInt8[np.ndarray, "n 3"],
    crowd: Bool[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
    line: float,
) -> None:
    """Tints the masks of objects and hatches the masks of crowds."""
    owner = np.zeros(canvas.size[::-1], np.uint16)  # Number of the object that tints each pixel.
    for i in order:
        inside, (y, x) = patches[i]
        if crowd[i]:
            _hatch(canvas, inside, (y, x), line)
        else:
            np.putmask(owner[y : y + inside.shape[0], x : x + inside.shape[1]], inside, i + 1)
    _tint(canvas, owner, palette)


def _tint(
    canvas: Image.Image, owner: UInt16[np.ndarray, "h w"], palette: UInt8[np.ndarray, "n 3"]
) -> None:
    """Blends the colour of its owner into each pixel; owner 0 means no object."""
    palette = np.concatenate([np.zeros((1, 3), np.uint8), palette])
    for top in range(0, len(owner), _ROWS_PER_BAND):
        band = owner[top : top + _ROWS_PER_BAND]
        opacity = Image.fromarray((band > 0) * np.uint8(_OPACITY))
        canvas.paste(Image.fromarray(palette.take(band, axis=0)), (0, top), opacity)


def _hatch(
    canvas: Image.Image, inside: UInt8[np.ndarray, "y x"], offset: tuple[int, int], line: float
) -> None:
    """Darkens a region and draws light diagonal stripes over it."""
    (y, x), period = offset, 8 * line
    rows, columns = np.arange(y, y + inside.shape[0]), np.arange(x, x + inside.shape[1])
    phase = (rows[:, None] + columns[None]) % period
    stripes = np.clip(period / 4 - np.abs(phase - period / 2) + 0.5, 0, 1)
    canvas.paste((0, 0, 0), (x, y), Image.fromarray(inside // 3))
    opacity = (stripes * (inside // 2)).astype(np.uint8)
    canvas.paste(tuple(_CROWD_COLOR.tolist()), (x, y), Image.fromarray(opacity))


def _outline(
    canvas: Image.Image,
    inside: UInt8[np.ndarray, "y x"],
    offset: tuple[int, int],
    color: tuple[int, ...],
    line: float,
) -> None:
    """Draws a smooth, ``line`` pixels wide rim along the inner side of a mask's edge.

    The depth of a pixel, its distance from the edge, is estimated from the share of mask pixels in
    a square around it. At a straight edge the share is one half; at a depth of half the square's
    side it is one.
    """
    if not inside.size:
        return
    reach = math.ceil(line) + 1
    padded = np.pad(inside, reach)
    share = np.asarray(Image.fromarray(padded).filter(ImageFilter.BoxBlur(reach)))
    # Depth of a pixel's centre in pixels, by its share.
    depth = (np.arange(256) / 255 - 0.5) * (2 * reach + 1)
    within = (255 * np.clip(line + 0.5 - depth, 0, 1)).astype(np.uint8)
    beyond = (255 * np.clip(depth + 0.5, 0, 1)).astype(np.uint8)
    # Parts of the mask that are thinner than the line consist of rim only.
    opacity = np.where(padded, within.take(share), beyond.take(share))
    canvas.paste(color, (offset[1] - reach, offset[0] - reach), Image.fromarray(opacity))


def _texts(labels: np.ndarray, scores: Any, names: Sequence[str], crowd: np.ndarray) -> list[str]:
    texts = [fonts.legible(names[label - 1], label) for label in labels.tolist()]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
    marks = [" (crowd)" if is_crowd else "" for is_crowd in crowd]
    return [text + mark for text, mark in zip(texts, marks, strict=True)]


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Arranges images in rows on a white sheet, each centred in a cell of the largest size.

    Args:
        images: RGB, of any sizes.
        columns: Largest number of images in a row.

    Raises:
        ValueError: There are no images.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    gap = max(4, max(height, width) // 64)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        y = gap + row * (height + gap) + (height - image.shape[0]) // 2
        x = gap + column * (width + gap) + (width - image.shape[1]) // 2
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    return sheet
