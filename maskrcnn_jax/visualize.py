"""Pictures of detections: translucent masks with outlines, boxes, names and scores."""

import colorsys
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Num, UInt8
from PIL import Image, ImageDraw, ImageFont

Patch = tuple[np.ndarray, tuple[int, int]]  # Probabilities, and the (y, x) of the image where they start.
Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # x0, y0, x1, y1.

_OPACITY = 107  # Of the masks; 255 is opaque.
_GOLDEN = 0.6180339887  # Hues this far apart, modulo one, stay distinct for any number of instances.
_LABEL_SHARE = 0.12  # Of the picture that labels may cover.
_LABEL_OVERLAP = 0.25  # Of a label that better ones may cover.


def draw(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Num[np.ndarray, "n 4"],
    labels: Sequence[int] | Num[np.ndarray, " n"],
    scores: Sequence[float] | Num[np.ndarray, " n"],
    masks: Sequence[Patch] | Num[np.ndarray, "n h w"],
    names: Sequence[str],
    *,
    scale: int = 1,
) -> UInt8[np.ndarray, "sh sw 3"]:
    """Draws detections over their image, larger objects first, each instance in its own colour.

    Labels keep inside the picture and off one another. Where objects crowd, only the best-scored have a label, so that
    the objects stay visible.

    Args:
      image: RGB.
      boxes: x0, y0, x1, y1 in pixels of the image.
      labels: 1, 2, ... into the names.
      scores: in [0, 1].
      masks: probabilities, as (patch, offset) or as full images.
      names: of the labels 1, 2, ...
      scale: how many times larger the picture becomes; a small one needs it for its labels to be legible.
    """
    height, width = (scale * side for side in image.shape[:2])
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    line = max(1, round(min(height, width) / 450))
    boxes = np.asarray(boxes) * scale
    largest_first = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")
    for i in largest_first:
        patch, offset = _enlarge(*_patch(masks[i]), scale)
        _paint(picture, patch > 0.5, offset, _color(int(i)), line)
    pen = ImageDraw.Draw(picture)
    for i in largest_first:
        pen.rectangle(np.rint(boxes[i]).tolist(), outline=_color(int(i)), width=line)
    texts = [f"{names[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    _write_labels(pen, texts, boxes, np.argsort(-np.asarray(scores), kind="stable"), picture.size)
    return np.array(picture)


def _patch(mask: Patch | Num[np.ndarray, "h w"]) -> Patch:
    """A full image cut down to the part that is not zero."""
    if isinstance(mask, tuple):
        return mask
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask[:0, :0], (0, 0)
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (int(rows[0]), int(columns[0]))


def _enlarge(patch: np.ndarray, offset: tuple[int, int], scale: int) -> Patch:
    if scale == 1 or not patch.size:
        return patch, offset
    size = (patch.shape[1] * scale, patch.shape[0] * scale)
    smooth = Image.fromarray(patch.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(smooth), (offset[0] * scale, offset[1] * scale)


def _paint(
    picture: Image.Image, inside: Bool[np.ndarray, "y x"], offset: tuple[int, int], color: Color, line: int
) -> None:
    """Tints the pixels inside a mask, and colours those along its rim fully."""
    opacity = np.where(_erode(inside, line), np.uint8(_OPACITY), inside * np.uint8(255))
    picture.paste(color, (offset[1], offset[0]), Image.fromarray(opacity))


def _erode(inside: Bool[np.ndarray, "y x"], steps: int) -> Bool[np.ndarray, "y x"]:
    for _ in range(steps):
        grid = np.pad(inside, 1)
        inside = inside & grid[:-2, 1:-1] & grid[2:, 1:-1] & grid[1:-1, :-2] & grid[1:-1, 2:]
    return inside


def _color(index: int) -> Color:
    """A saturated colour, light or dark in turns, so that neighbours in the list differ in more than hue."""
    hue, lightness = (0.58 + index * _GOLDEN) % 1, (0.56, 0.46, 0.64)[index % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _write_labels(
    pen: ImageDraw.ImageDraw, texts: Sequence[str], boxes: np.ndarray, order: np.ndarray, size: tuple[int, int]
) -> None:
    """Writes each text on a plate of its instance's colour near its box, in the order given."""
    font = _font(max(11, round(min(size) / 50)))
    margin = max(2, round(font.size / 4))
    room = _LABEL_SHARE * size[0] * size[1]
    placed: list[Rectangle] = []
    for i in order.tolist():
        width, height = round(pen.textlength(texts[i], font=font)) + 2 * margin, round(1.35 * font.size)
        if placed and width * height > room:  # The best one has a label however small the picture is.
            continue
        plate, covered = _place(boxes[i], (width, height), size, placed)
        if covered > _LABEL_OVERLAP:
            continue
        placed.append(plate)
        room -= width * height
        x0, y0, x1, y1 = plate
        pen.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=margin, fill=_color(i))
        pen.text((x0 + margin, (y0 + y1) / 2), texts[i], fill=_ink(_color(i)), font=font, anchor="lm")


def _place(
    box: np.ndarray, plate: tuple[int, int], size: tuple[int, int], placed: Sequence[Rectangle]
) -> tuple[Rectangle, float]:
    """The place near a box that other plates cover least, and how much of it they cover; the first of equal ones."""
    (width, height), (x0, y0, x1, y1) = plate, np.rint(box).astype(int).tolist()
    corners = [(x0, y0 - height), (x0, y0), (x0, y1), (x1 - width, y0 - height), (x1 - width, y1), (x0, y1 - height)]
    # Outside the box before inside it, unless the picture ends there.
    inside = [_clamp(x, y, width, height, size) for x, y in corners]
    moved = [abs(a[0] - x) + abs(a[1] - y) for a, (x, y) in zip(inside, corners, strict=True)]
    covered = [sum(_overlap(a, b) for b in placed) / (width * height) for a in inside]
    best = min(range(len(corners)), key=lambda i: (covered[i], moved[i] > 0, i))
    return inside[best], covered[best]


def _clamp(x: int, y: int, width: int, height: int, size: tuple[int, int]) -> Rectangle:
    x, y = max(min(x, size[0] - width), 0), max(min(y, size[1] - height), 0)
    return x, y, x + width, y + height


def _overlap(a: Rectangle, b: Rectangle) -> int:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def _ink(color: Color) -> Color:
    """Black or white, whichever reads better on a colour, by its perceived brightness (ITU-R BT.601)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def contact_sheet(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], columns: int) -> UInt8[np.ndarray, "h w 3"]:
    """Lays pictures out in rows on white, each centred in a cell as large as the largest picture.

    Raises:
      ValueError: there are no pictures.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one picture")
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
