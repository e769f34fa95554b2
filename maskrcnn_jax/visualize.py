"""Pictures of objects: translucent masks with smooth outlines, boxes, names and scores."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Num, Shaped, UInt8, UInt16
from PIL import Image, ImageDraw, ImageFilter

from maskrcnn_jax import captions, colors, images

Patch = tuple[np.ndarray, tuple[int, int]]  # Probabilities, and the (y, x) of the image where they start.
Masks = Sequence[Patch | np.ndarray] | Shaped[np.ndarray, "n h w"] | Shaped[np.ndarray, "n 1 h w"]

_OPACITY = 107  # Of the masks; 255 is opaque.
_LINE_SHARE = 1 / 400  # Of the picture's short side: the outlines of masks.
_FRAME_SHARE = 0.75  # Of that: the boxes.
_ROWS_PER_BAND = 1024  # Blended at once: a picture of 12,000 pixels by 12,000 would take gigabytes on the way.
_CROWD_COLOR = np.array([235, 235, 235], np.uint8)


def draw(
    image: Shaped[np.ndarray, "..."],
    boxes: Num[np.ndarray, "n 4"],
    labels: Sequence[int] | Num[np.ndarray, " n"],
    scores: Sequence[float] | Num[np.ndarray, " n"] | None,
    masks: Masks,
    names: Sequence[str],
    *,
    crowd: Sequence[bool] | Bool[np.ndarray, " n"] | None = None,
    color_by_class: bool = False,
    scale: float | int = 1,
) -> UInt8[np.ndarray, "sh sw 3"]:
    """Draws detections, or ground truth, over their image.

    Larger objects come first, whatever their scores, since they would hide the smaller ones. A pixel is tinted by the
    smallest object that claims it: tints on one another would make colours that stand for nobody. Lines and letters
    grow with the picture. Where objects crowd, only the best-scored (without scores: the largest) have a name.

    Args:
      image: of any kind that `images.as_rgb` takes: RGB, grey or with alpha, uint8, uint16 or floating point in [0, 1].
      boxes: x0, y0, x1, y1 in pixels of the image; what lies outside is not drawn.
      labels: 1, 2, ... into the names.
      scores: in [0, 1]; None for ground truth.
      masks: probabilities or zeros and ones, as (patch, offset) or as full images.
      names: of the labels 1, 2, ...
      crowd: which masks are regions with many objects; these are hatched.
      color_by_class: one colour for each class, the same in all pictures, instead of one for each object.
      scale: how many times larger the picture becomes; a small one needs it for its names to be legible.

    Raises:
      ValueError: the image is of another kind, the other arguments differ in length, a label has no name, a box is not
        finite, or a full mask has another size than the image.
    """
    labels = np.asarray(labels, int)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool)
    rgb = images.as_rgb(image)
    _check(rgb.shape[:2], boxes, labels, scores, masks, names, crowd)
    picture = _resized(rgb, scale)
    boxes = np.clip(np.asarray(boxes, float) * scale, 0, np.array(picture.size * 2)[None])
    palette = colors.by_class(labels) if color_by_class else colors.by_instance(boxes)
    palette = np.where(crowd[:, None], _CROWD_COLOR[None], palette)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = np.lexsort((-areas, ~crowd))  # Crowds lie under everything.
    _paint(picture, [_pixels(mask, scale, picture.size) for mask in masks], boxes, palette, crowd, order)
    importance = areas if scores is None else np.asarray(scores)
    texts = _texts(labels, scores, names, crowd)
    captions.write(picture, texts, boxes, palette, np.argsort(-importance, kind="stable"))
    return np.array(picture)


def _check(
    size: Sequence[int],
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: Any,
    masks: Masks,
    names: Sequence[str],
    crowd: np.ndarray,
) -> None:
    counts = {"labels": len(labels), "masks": len(masks), "crowd flags": len(crowd)}
    counts |= {} if scores is None else {"scores": len(scores)}
    for what, count in counts.items():
        if count != len(boxes):
            raise ValueError(f"expected as many {what} as boxes, {len(boxes)}, got {count}")
    unknown = labels[(labels < 1) | (labels > len(names))]
    if len(unknown):
        raise ValueError(f"expected labels from 1 to {len(names)}, the number of names, got {unknown[0]}")
    if not np.isfinite(boxes).all():
        raise ValueError(f"expected finite boxes, got {boxes[~np.isfinite(boxes).all(1)][0]}")
    shapes = {mask.shape[-2:] for mask in masks if not isinstance(mask, tuple)}
    if shapes - {tuple(size)}:
        raise ValueError(f"expected full masks of the size of the image, {tuple(size)}, got {shapes.pop()}")


def _resized(image: Shaped[np.ndarray, "h w 3"], scale: float | int) -> Image.Image:
    if image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def _pixels(mask: Patch | np.ndarray, scale: float | int, size: tuple[int, int]) -> Patch:
    """The pixels of a picture of ``size`` (width, height) inside a mask, as 255 in a patch of zeros."""
    patch, (top, left) = mask if isinstance(mask, tuple) else _cut(mask)
    if not patch.size:
        return np.zeros((0, 0), np.uint8), (0, 0)
    if scale != 1:
        patch, (top, left) = _resample(patch, (top, left), scale)
    rows, columns = slice(max(-top, 0), max(size[1] - top, 0)), slice(max(-left, 0), max(size[0] - left, 0))
    inside = patch[rows, columns] > 0.5
    return inside * np.uint8(255), (max(top, 0), max(left, 0))


def _cut(mask: Shaped[np.ndarray, "... h w"]) -> Patch:
    """A full image cut down to the part that is inside."""
    mask = mask.reshape(mask.shape[-2:]) > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask[:0, :0], (0, 0)
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (int(rows[0]), int(columns[0]))


def _resample(patch: np.ndarray, offset: tuple[int, int], scale: float | int) -> Patch:
    """A patch in an image ``scale`` times as large, on whole pixels of it."""
    edge = math.ceil(1 / scale)  # A pixel of the new image may reach so far beyond the patch.
    ends = [
        (math.floor(start * scale), math.ceil((start + n) * scale))
        for start, n in zip(offset, patch.shape, strict=True)
    ]
    source = [[end / scale - start + edge for end in pair] for pair, start in zip(ends, offset, strict=True)]
    (top, bottom), (left, right) = ends
    box = (source[1][0], source[0][0], source[1][1], source[0][1])
    picture = Image.fromarray(np.pad(patch.astype(np.float32), edge))
    return np.asarray(picture.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box)), (top, left)


def _paint(
    picture: Image.Image,
    patches: Sequence[Patch],
    boxes: np.ndarray,
    palette: UInt8[np.ndarray, "n 3"],
    crowd: Bool[np.ndarray, " n"],
    order: Int[np.ndarray, " n"],
) -> None:
    """Draws the masks and boxes of all objects in the order given."""
    line = max(1.0, min(picture.size) * _LINE_SHARE)
    owner = np.zeros(picture.size[::-1], np.uint16)  # The object that a pixel is tinted by, from 1.
    for i in order:
        inside, (y, x) = patches[i]
        if crowd[i]:
            _hatch(picture, inside, (y, x), line)
        else:
            np.putmask(owner[y : y + inside.shape[0], x : x + inside.shape[1]], inside, i + 1)
    _tint(picture, owner, palette)
    pen = ImageDraw.Draw(picture)
    for i in order:
        color = tuple(palette[i].tolist())
        x0, y0, x1, y1 = np.rint(boxes[i]).astype(int).tolist()
        width = max(1, round(_FRAME_SHARE * line))
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=color, width=width)
        _outline(picture, *patches[i], color, line)


def _tint(picture: Image.Image, owner: UInt16[np.ndarray, "h w"], palette: UInt8[np.ndarray, "n 3"]) -> None:
    """Blends the colour of its owner into each pixel that has one."""
    palette = np.concatenate([np.zeros((1, 3), np.uint8), palette])
    for top in range(0, len(owner), _ROWS_PER_BAND):
        band = owner[top : top + _ROWS_PER_BAND]
        opacity = Image.fromarray((band > 0) * np.uint8(_OPACITY))
        picture.paste(Image.fromarray(palette.take(band, axis=0)), (0, top), opacity)


def _hatch(picture: Image.Image, inside: UInt8[np.ndarray, "y x"], offset: tuple[int, int], line: float) -> None:
    """Darkens a region, and lays light stripes of 45 degrees over it."""
    (y, x), period = offset, 8 * line
    rows, columns = np.arange(y, y + inside.shape[0]), np.arange(x, x + inside.shape[1])
    phase = (rows[:, None] + columns[None]) % period
    stripes = np.clip(period / 4 - np.abs(phase - period / 2) + 0.5, 0, 1)
    picture.paste((0, 0, 0), (x, y), Image.fromarray(inside // 3))
    picture.paste(tuple(_CROWD_COLOR.tolist()), (x, y), Image.fromarray((stripes * (inside // 2)).astype(np.uint8)))


def _outline(
    picture: Image.Image,
    inside: UInt8[np.ndarray, "y x"],
    offset: tuple[int, int],
    color: tuple[int, ...],
    line: float,
) -> None:
    """Draws the rim of a mask, ``line`` pixels to the inside, with its steps smoothed.

    The share of a square round a pixel that is inside tells how deep inside the pixel lies: half of it at a straight
    edge, all of it at half the square's side from there.
    """
    if not inside.size:
        return
    reach = math.ceil(line) + 1
    padded = np.pad(inside, reach)
    share = np.asarray(Image.fromarray(padded).filter(ImageFilter.BoxBlur(reach)))
    depth = (np.arange(256) / 255 - 0.5) * (2 * reach + 1)  # Pixels from the edge to a pixel's centre, by its share.
    within, beyond = ((255 * np.clip(part, 0, 1)).astype(np.uint8) for part in (line + 0.5 - depth, depth + 0.5))
    # Parts of the mask that are thinner than the line have no depth, and are rim all over.
    opacity = np.where(padded, within.take(share), beyond.take(share))
    picture.paste(color, (offset[1] - reach, offset[0] - reach), Image.fromarray(opacity))


def _texts(labels: np.ndarray, scores: Any, names: Sequence[str], crowd: np.ndarray) -> list[str]:
    texts = [names[label - 1] for label in labels]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
    return [f"{text} (crowd)" if is_crowd else text for text, is_crowd in zip(texts, crowd, strict=True)]


def contact_sheet(pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int) -> UInt8[np.ndarray, "h w 3"]:
    """Lays pictures out in rows on white, each centred in a cell as large as the largest picture.

    Raises:
      ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    gap = max(4, max(height, width) // 64)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        y = gap + row * (height + gap) + (height - picture.shape[0]) // 2
        x = gap + column * (width + gap) + (width - picture.shape[1]) // 2
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet
