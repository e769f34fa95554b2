"""Draws objects over an image: translucent masks with smooth outlines, boxes, names, scores."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8, UInt16
from PIL import Image, ImageDraw, ImageFilter

from maskrcnn_jax import images
from maskrcnn_jax.drawing import captions, colors, fonts, patches
from maskrcnn_jax.drawing.patches import Patch

Masks = Sequence[Patch | np.ndarray] | Shaped[np.ndarray, "n h w"] | Shaped[np.ndarray, "n 1 h w"]

_OPACITY = 107  # Opacity of the masks, from 0 to 255.
_LINE_SHARE = 1 / 400  # Width of mask outlines, as a fraction of the image's short side.
_OBJECT_LINE = 1 / 40  # The same as a fraction of the root of the object's area, if that is less.
_FRAME_SHARE = 0.75  # Width of box lines, as a fraction of the width of mask outlines.
_ROWS_PER_BAND = 1024  # Rows blended at once: 12,000 by 12,000 pixels would take gigabytes.
# A class fills the picture if there are more objects, all of that class.
_MANY = 16
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
    show_names: bool | None = None,
    show_scores: bool = True,
    scale: float | int = 1,
) -> UInt8[np.ndarray, "sh sw 3"]:
    """Draws detections or ground truth over an image.

    Larger objects are drawn first, whatever their scores, so that they do not hide smaller ones. A
    pixel has the tint of only the smallest object that covers it, because mixed tints would belong
    to no object. Line widths and letters follow the sizes of image and object. Objects of high
    score (without scores: large objects) get their names first. A name is left out where it would
    hide another object, or much of its own. If more than 16 objects are all of one class, masks are
    drawn without boxes and names.

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
        show_names: Whether to write names; None leaves them out where one class fills the picture.
        show_scores: Whether to write scores beside the names.
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
    filled = show_names is None and _is_filled(labels, crowd)
    shapes = _shapes(masks, boxes, scale, canvas.size)
    owner = _owner(canvas.size, shapes, crowd, order)
    lines = _lines(areas, canvas.size)
    if masks is not None:
        _fill(canvas, shapes, owner, palette, crowd)
    if masks is None or not filled:
        _frame(canvas, boxes, palette, lines, order)
    if masks is not None:
        _outline_all(canvas, shapes, palette, lines, order)
    importance = areas if scores is None else np.asarray(scores)
    named = labels if show_names is not False and not filled else None
    scored = scores if show_scores and not filled else None
    texts = _texts(named, scored, names, crowd)
    captions.write(canvas, texts, boxes, palette, np.argsort(-importance, kind="stable"), owner)
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


def _is_filled(labels: np.ndarray, crowd: np.ndarray) -> bool:
    """Whether one class fills the picture, so that its name says nothing."""
    return bool((~crowd).sum() > _MANY and len(set(labels[~crowd].tolist())) == 1)


def _shapes(
    masks: Masks | None, boxes: np.ndarray, scale: float | int, size: tuple[int, int]
) -> list[Patch]:
    """The pixels of each object in the drawing: of its mask, or without masks of its box."""
    if masks is not None:
        return [patches.pixels(mask, scale, size) for mask in masks]
    corners = np.rint(boxes).astype(int).tolist()
    return [(np.full((y1 - y0, x1 - x0), 255, np.uint8), (y0, x0)) for x0, y0, x1, y1 in corners]


def _owner(
    size: tuple[int, int],
    shapes: Sequence[Patch],
    crowd: Bool[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
) -> UInt16[np.ndarray, "h w"]:
    """The object that is seen at each pixel, as its index plus one; 0 for none and for crowds."""
    owner = np.zeros(size[::-1], np.uint16)
    for i in order[~crowd[order]]:
        inside, (y, x) = shapes[i]
        np.putmask(owner[y : y + inside.shape[0], x : x + inside.shape[1]], inside, i + 1)
    return owner


def _lines(areas: np.ndarray, size: tuple[int, int]) -> Float[np.ndarray, " n"]:
    """The width of the outline of each object, in pixels."""
    return np.clip(np.sqrt(areas) * _OBJECT_LINE, 1.0, max(1.0, min(size) * _LINE_SHARE))


def _fill(
    canvas: Image.Image,
    shapes: Sequence[Patch],
    owner: UInt16[np.ndarray, "h w"],
    palette: UInt8[np.ndarray, "n 3"],
    crowd: Bool[np.ndarray, " n"],
) -> None:
    """Hatches the masks of crowds and tints those of objects."""
    for i in np.flatnonzero(crowd).tolist():
        inside, offset = shapes[i]
        _hatch(canvas, inside, offset, max(1.0, min(canvas.size) * _LINE_SHARE))
    _tint(canvas, owner, palette)


def _frame(
    canvas: Image.Image,
    boxes: np.ndarray,
    palette: UInt8[np.ndarray, "n 3"],
    lines: np.ndarray,
    order: np.ndarray,
) -> None:
    """Draws the boxes of all objects in the given order."""
    pen = ImageDraw.Draw(canvas)
    for i in order:
        x0, y0, x1, y1 = np.rint(boxes[i]).astype(int).tolist()
        corners = x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)
        width = max(1, round(_FRAME_SHARE * lines[i]))
        pen.rectangle(corners, outline=tuple(palette[i].tolist()), width=width)


def _outline_all(
    canvas: Image.Image,
    shapes: Sequence[Patch],
    palette: UInt8[np.ndarray, "n 3"],
    lines: np.ndarray,
    order: np.ndarray,
) -> None:
    """Draws the outlines of all masks in the given order."""
    for i in order:
        inside, offset = shapes[i]
        _outline(canvas, inside, offset, tuple(palette[i].tolist()), float(lines[i]))


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


def _texts(
    labels: np.ndarray | None, scores: Any, names: Sequence[str], crowd: np.ndarray
) -> list[str]:
    """The caption of each object: its name, its score, both, or an empty text."""
    words: list[list[str]] = [[] for _ in crowd]
    for i, label in enumerate([] if labels is None else labels.tolist()):
        words[i].append(fonts.legible(names[label - 1], label))
    for i, score in enumerate([] if scores is None else scores):
        words[i].append(f"{score:.2f}")
    for i in np.flatnonzero(crowd).tolist():
        words[i].append("(crowd)")
    return [" ".join(each) for each in words]


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
