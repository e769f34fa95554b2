"""Names beside the objects of a picture: text on plates that neither leave the picture nor cover each other."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num, UInt8
from PIL import Image, ImageDraw, ImageFont

_FONT_SHARE = 1 / 45  # Of the picture's short side.
_SMALLEST_FONT = 11  # Pixels.
_PICTURE_SHARE = 0.12  # Of the picture that plates may cover.
_MOST_HIDDEN = 0.7  # Of all objects, added up: a name is not worth more.
_MOVED = 0.25  # A plate at the rim of the picture is as bad as one that hides this share of an object.
_LATER = 0.02  # And so is each step down the list of places.

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def write(
    picture: Image.Image,
    texts: Sequence[str],
    boxes: Num[np.ndarray, "n 4"],
    colors: UInt8[np.ndarray, "n 3"],
    order: Sequence[int] | Int[np.ndarray, " n"],
) -> None:
    """Writes each text near its box, in the order given, as long as there is room.

    The letters grow with the picture. A text wider than the picture is cut off; one that finds no free place, or
    would be in the way of seeing the picture, is left out, but the first is there if a letter of it fits.

    Args:
      picture: RGB; it is written to.
      boxes: x0, y0, x1, y1 in its pixels.
      colors: of the plates.
      order: indices, the most important first.
    """
    pen, size = ImageDraw.Draw(picture), picture.size
    font = _font(max(_SMALLEST_FONT, round(min(size) * _FONT_SHARE)))
    margin = max(2, round(font.size / 4))
    height = round(1.35 * font.size)
    room = _PICTURE_SHARE * size[0] * size[1]
    placed = np.zeros((0, 4))
    for i in map(int, order):
        text, length = _shortened(texts[i], font, size[0] - 2 * margin)
        width = round(length) + 2 * margin
        if not text or height > size[1] or (len(placed) and width * height > room):
            continue
        plate = place(boxes[i], (width, height), size, placed, boxes)
        if plate is None:
            continue
        placed = np.concatenate([placed, plate[None]])
        room -= width * height
        x0, y0, x1, y1 = plate.tolist()
        pen.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=margin, fill=tuple(colors[i].tolist()))
        pen.text((x0 + margin, (y0 + y1) / 2), text, fill=_ink(colors[i]), font=font, anchor="lm")


def title(picture: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "_ w 3"]:
    """Puts a white strip with a line of text on top of a picture; what does not fit is cut off."""
    height, width = picture.shape[:2]
    font = _font(max(_SMALLEST_FONT, round(max(height, width) / 32)))
    strip = Image.new("RGB", (width, round(1.5 * font.size)), "white")
    margin = round(font.size / 4)
    text, _ = _shortened(text, font, width - 2 * margin)
    ImageDraw.Draw(strip).text((margin, strip.height / 2), text, fill="black", font=font, anchor="lm")
    return np.concatenate([np.asarray(strip), picture])


@functools.cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _shortened(text: str, font: Font, room: int) -> tuple[str, float]:
    """As much of a text as fits into so many pixels, and its length; nothing if that is not a letter and two dots."""
    text = " ".join(text.splitlines())
    length = font.getlength(text)
    if length <= room:
        return text, length
    while text and font.getlength(text + "..") > room:
        text = text[:-1]
    return (text + "..", font.getlength(text + "..")) if text else ("", 0.0)


def place(
    box: Num[np.ndarray, " 4"],
    plate: tuple[int, int],
    size: tuple[int, int],
    placed: Num[np.ndarray, "p 4"],
    boxes: Num[np.ndarray, "n 4"],
) -> Int[np.ndarray, " 4"] | None:
    """Where a plate of (width, height) goes in a picture of (width, height): beside, above or in its box.

    Of the places that cover no other plate, the one that hides least of all objects; of equal ones, rather the first
    that need not be moved into the picture. Only the first plate may hide much.

    Returns:
      x0, y0, x1, y1, or None if there is no such place.
    """
    (width, height), (x0, y0, x1, y1) = plate, np.rint(box).astype(int).tolist()
    left, right, middle = x0, x1 - width, (x0 + x1 - width) // 2
    above, below, centre = y0 - height, y1, (y0 + y1 - height) // 2
    outside = [(left, above), (left, below), (right, above), (right, below), (middle, above), (middle, below)]
    inside = [(left, y0), (right, y0), (left, y1 - height), (right, y1 - height), (middle, centre)]
    wanted = np.array([*outside, *inside, (x1, centre), (x0 - width, centre)])
    corners = np.clip(wanted, 0, np.array(size) - plate)
    plates = np.concatenate([corners, corners + plate], axis=1)
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1)
    hidden = (_overlap(plates, boxes) / areas[None]).sum(1)
    free = (_overlap(plates, placed).sum(1) == 0) & ((hidden < _MOST_HIDDEN) | (len(placed) == 0))
    moved = (corners != wanted).any(1)
    cost = np.where(free, hidden + _MOVED * moved + _LATER * np.arange(len(wanted)), np.inf)
    return plates[cost.argmin()] if free.any() else None


def _overlap(a: Num[np.ndarray, "n 4"], b: Num[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Area that each two rectangles share."""
    near, far = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.maximum(far - near, 0.0).prod(-1)


def _ink(color: UInt8[np.ndarray, " 3"]) -> str:
    """Black or white, whichever reads better on a colour, by its perceived brightness (ITU-R BT.601)."""
    return "black" if color @ np.array([0.299, 0.587, 0.114]) > 140 else "white"
