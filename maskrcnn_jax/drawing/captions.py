"""Writes names beside the objects of an image, on plates inside the image that do not overlap."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num, UInt8, UInt16
from PIL import Image, ImageDraw

from maskrcnn_jax.drawing import fonts
from maskrcnn_jax.drawing.fonts import Font

_FONT_SHARE = 1 / 45  # Font size, as a fraction of the image's short side.
_OBJECT_SHARE = 1 / 7  # Font size, as a fraction of the root of the object's area.
_RANGE = (0.8, 1.25)  # Font sizes by objects, as fractions of that by the image.
_SMALLEST_FONT = 11  # Font size in pixels, by the image.
_PLATES_SHARE = 0.12  # Fraction of the image that plates may cover.
_MOST_OF_OTHERS = 0.06  # Largest fraction of another object that a plate may hide.
_MOST_OF_OWN = 0.25  # Largest fraction of its own object that a plate may hide.
# Costs of a place, in units of one hidden object.
_MOVED = 0.25  # Cost of a plate that is moved into the image.
_LATER = 0.02  # Cost of each step down the list of places.


def write(
    image: Image.Image,
    texts: Sequence[str],
    boxes: Num[np.ndarray, "n 4"],
    colors: UInt8[np.ndarray, "n 3"],
    order: Sequence[int] | Int[np.ndarray, " n"],
    owner: UInt16[np.ndarray, "h w"],
) -> None:
    """Writes each text near its box, in the given order, while there is space.

    The font size follows the sizes of the image and of the object. A text wider than the image is
    shortened. A text is skipped if it is empty, if no place is free, or if its plate would hide
    much of its own object or some of another.

    Args:
        image: An RGB image, modified in place.
        texts: One text for each box.
        boxes: x0, y0, x1, y1 in pixels of the image.
        colors: RGB colours of the plates.
        order: Indices of the texts, the most important one first.
        owner: For each pixel the object that is seen there, as its index plus one; 0 for none.
    """
    pen, size = ImageDraw.Draw(image), image.size
    room = _PLATES_SHARE * size[0] * size[1]
    areas = np.maximum(np.bincount(owner.ravel(), minlength=len(boxes) + 1)[1:], 1)
    placed = np.zeros((0, 4))
    for i in map(int, order):
        font_size = _font_size(boxes[i], size)
        margin, height = max(2, round(font_size / 4)), round(1.35 * font_size)
        font = fonts.load(fonts.letters_of(texts[i]), font_size)
        text, length = _shortened(texts[i], font, size[0] - 2 * margin)
        width = round(length) + 2 * margin
        if not text or height > size[1] or (len(placed) and width * height > room):
            continue
        plate = place(i, boxes[i], (width, height), placed, owner, areas)
        if plate is None:
            continue
        placed = np.concatenate([placed, plate[None]])
        room -= width * height
        x0, y0, x1, y1 = plate.tolist()
        pen.rounded_rectangle(
            (x0, y0, x1 - 1, y1 - 1), radius=margin, fill=tuple(colors[i].tolist())
        )
        pen.text((x0 + margin, (y0 + y1) / 2), text, fill=_ink(colors[i]), font=font, anchor="lm")


def _font_size(box: Num[np.ndarray, " 4"], size: tuple[int, int]) -> int:
    """The font size for an object, in pixels."""
    of_image = max(_SMALLEST_FONT, min(size) * _FONT_SHARE)
    of_object = math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 0)) * _OBJECT_SHARE
    low, high = _RANGE
    return round(min(max(of_object, low * of_image), high * of_image))


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
    index: int,
    box: Num[np.ndarray, " 4"],
    plate: tuple[int, int],
    placed: Num[np.ndarray, "p 4"],
    owner: UInt16[np.ndarray, "h w"],
    areas: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " 4"] | None:
    """Finds the best place for a plate at or in its box.

    The place overlaps no other plate, hides at most `_MOST_OF_OWN` of its object and
    `_MOST_OF_OTHERS` of each other one, and has the lowest cost. The cost grows with the hidden
    fractions of all objects, if the plate is moved into the image, and with each step down the list
    of places.

    Args:
        index: The object that the plate belongs to.
        box: x0, y0, x1, y1 of that object, in pixels.
        plate: Width and height of the plate.
        placed: x0, y0, x1, y1 of the plates placed before.
        owner: As for `write`.
        areas: Number of pixels where each object is seen, at least 1.

    Returns:
        x0, y0, x1, y1 of the plate, or None if there is no place.
    """
    best, lowest = None, math.inf
    size = owner.shape[::-1]
    for step, wanted in enumerate(_places(box, plate)):
        corner = np.clip(wanted, 0, np.array(size) - plate)
        cost = _LATER * step + (_MOVED if (corner != wanted).any() else 0)
        rectangle = np.concatenate([corner, corner + plate])
        if cost >= lowest or _overlap(rectangle[None], placed).any():
            continue
        x0, y0, x1, y1 = rectangle.tolist()
        covered = np.bincount(owner[y0:y1, x0:x1].ravel(), minlength=len(areas) + 1)[1:]
        hidden = covered / areas
        others = np.delete(hidden, index)
        if hidden[index] > _MOST_OF_OWN or (others > _MOST_OF_OTHERS).any():
            continue
        cost += hidden.sum()
        if cost < lowest:
            best, lowest = rectangle, cost
    return best


def _places(box: Num[np.ndarray, " 4"], plate: tuple[int, int]) -> list[tuple[int, int]]:
    """Corners (x, y) of a plate at a box, the best one first; some may lie outside the image."""
    (width, height), (x0, y0, x1, y1) = plate, np.rint(box).astype(int).tolist()
    left, right, middle = x0, x1 - width, (x0 + x1 - width) // 2
    above, below, centre = y0 - height, y1, (y0 + y1 - height) // 2
    outside = [(x, y) for x in (left, right, middle) for y in (above, below)]
    inside = [(x, y) for y in (y0, y1 - height) for x in (left, right)] + [(middle, centre)]
    return [*outside, *inside, (x1, centre), (x0 - width, centre)]


def _overlap(a: Num[np.ndarray, "n 4"], b: Num[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Returns the area of the intersection of each pair of rectangles."""
    near = np.maximum(a[:, None, :2], b[None, :, :2])
    far = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.maximum(far - near, 0.0).prod(-1)


def _ink(color: UInt8[np.ndarray, " 3"]) -> str:
    """Chooses black or white text for a background colour by its luma (ITU-R BT.601)."""
    return "black" if color @ np.array([0.299, 0.587, 0.114]) > 140 else "white"
