"""Writes names beside the objects of an image, on plates inside the image that do not overlap."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num, UInt8
from PIL import Image, ImageDraw

from maskrcnn_jax.drawing import fonts
from maskrcnn_jax.drawing.fonts import Font

_FONT_SHARE = 1 / 45  # Font size, as a fraction of the image's short side.
_SMALLEST_FONT = 11  # Font size in pixels.
_PLATES_SHARE = 0.12  # Fraction of the image that plates may cover.
_MOST_HIDDEN = 0.7  # Largest sum of the fractions of all objects that a plate may hide.
# Costs of a place, in units of one hidden object.
_MOVED = 0.25  # Cost of a plate that is moved into the image.
_LATER = 0.02  # Cost of each step down the list of places.


def write(
    image: Image.Image,
    texts: Sequence[str],
    boxes: Num[np.ndarray, "n 4"],
    colors: UInt8[np.ndarray, "n 3"],
    order: Sequence[int] | Int[np.ndarray, " n"],
) -> None:
    """Writes each text near its box, in the given order, while there is space.

    The font size scales with the image. A text wider than the image is shortened. A text is skipped
    if no place is free or if its plate would hide too much; the first text is only skipped if not
    even one letter fits.

    Args:
        image: An RGB image, modified in place.
        texts: One text for each box.
        boxes: x0, y0, x1, y1 in pixels of the image.
        colors: RGB colours of the plates.
        order: Indices of the texts, the most important one first.
    """
    pen, size = ImageDraw.Draw(image), image.size
    font_size = max(_SMALLEST_FONT, round(min(size) * _FONT_SHARE))
    margin = max(2, round(font_size / 4))
    height = round(1.35 * font_size)
    room = _PLATES_SHARE * size[0] * size[1]
    placed = np.zeros((0, 4))
    for i in map(int, order):
        font = fonts.load(fonts.letters_of(texts[i]), font_size)
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
        pen.rounded_rectangle(
            (x0, y0, x1 - 1, y1 - 1), radius=margin, fill=tuple(colors[i].tolist())
        )
        pen.text((x0 + margin, (y0 + y1) / 2), text, fill=_ink(colors[i]), font=font, anchor="lm")


def title(image: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "_ w 3"]:
    """Adds a white strip with a line of text above an image; the text is shortened to fit."""
    height, width = image.shape[:2]
    font = fonts.load(fonts.letters_of(text), max(_SMALLEST_FONT, round(max(height, width) / 32)))
    strip = Image.new("RGB", (width, round(1.5 * font.size)), "white")
    margin = round(font.size / 4)
    text, _ = _shortened(text, font, width - 2 * margin)
    pen = ImageDraw.Draw(strip)
    pen.text((margin, strip.height / 2), text, fill="black", font=font, anchor="lm")
    return np.concatenate([np.asarray(strip), image])


def _shortened(text: str, font: Font, room: int) -> tuple[str, float]:
    """Shortens a text to at most ``room`` pixels, and returns the text and its length in pixels.

    The text is empty if not even one letter and two dots fit.
    """
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
    """Finds the best place for a plate at or in its box.

    The place overlaps no other plate and has the lowest cost. The cost grows with the hidden
    fractions of all objects, if the plate is moved into the image, and with each step down the list
    of places. Only the first plate may hide more than `_MOST_HIDDEN`.

    Args:
        box: x0, y0, x1, y1 of the object, in pixels.
        plate: Width and height of the plate.
        size: Width and height of the image.
        placed: x0, y0, x1, y1 of the plates placed before.
        boxes: x0, y0, x1, y1 of all objects.

    Returns:
        x0, y0, x1, y1 of the plate, or None if there is no place.
    """
    (width, height), (x0, y0, x1, y1) = plate, np.rint(box).astype(int).tolist()
    left, right, middle = x0, x1 - width, (x0 + x1 - width) // 2
    above, below, centre = y0 - height, y1, (y0 + y1 - height) // 2
    outside = [(x, y) for x in (left, right, middle) for y in (above, below)]
    inside = [(x, y) for y in (y0, y1 - height) for x in (left, right)] + [(middle, centre)]
    wanted = np.array([*outside, *inside, (x1, centre), (x0 - width, centre)])
    corners = np.clip(wanted, 0, np.array(size) - plate)
    plates = np.concatenate([corners, corners + plate], axis=1)
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1)
    hidden = (_overlap(plates, boxes) / areas[None]).sum(1)
    hides_little = (hidden < _MOST_HIDDEN) | (len(placed) == 0)
    free = (_overlap(plates, placed).sum(1) == 0) & hides_little
    if not free.any():
        return None
    moved = (corners != wanted).any(1)
    cost = hidden + _MOVED * moved + _LATER * np.arange(len(wanted))
    return plates[np.where(free, cost, np.inf).argmin()]


def _overlap(a: Num[np.ndarray, "n 4"], b: Num[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Returns the area of the intersection of each pair of rectangles."""
    near = np.maximum(a[:, None, :2], b[None, :, :2])
    far = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.maximum(far - near, 0.0).prod(-1)


def _ink(color: UInt8[np.ndarray, " 3"]) -> str:
    """Chooses black or white text for a background colour by its luma (ITU-R BT.601)."""
    return "black" if color @ np.array([0.299, 0.587, 0.114]) > 140 else "white"
