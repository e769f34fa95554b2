"""Outlines of shapes that formats give by a few numbers. Coordinates are in pixels."""

import base64
import binascii
import math
from typing import Any

import numpy as np

from maskrcnn_jax import images
from maskrcnn_jax.data import outlines, rle
from maskrcnn_jax.data.outlines import Unusable
from maskrcnn_jax.data.values import number

_MOST = 1e12  # Pixels, as for outlines.
_ERROR = 0.05  # Pixels between an ellipse and its polygon.
_MAX_POINTS = 3600


def numbers(*values: Any) -> list[float]:
    """Checks coordinates. Raises Unusable if one is no number, or none that an image can have."""
    found = [number(value) for value in values]
    if any(x is None or not abs(x) < _MOST for x in found):  # NaN fails this too.
        raise Unusable(outlines.NO_NUMBERS)
    return list(map(float, found))


def corners(points: Any) -> list[float]:
    """x0 y0 x1 y1 of a list of two points, in their order. Raises Unusable."""
    if not isinstance(points, list) or len(points) != 2:
        raise Unusable("whose shape needs two points")
    if any(not isinstance(point, list) or len(point) != 2 for point in points):
        raise Unusable(outlines.NO_NUMBERS)
    return numbers(*points[0], *points[1])


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    """The polygon of a rectangle between two opposite corners."""
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def ellipse(
    x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0
) -> list[list[float]]:
    """A polygon in an ellipse, with corners on it and edges at most a twentieth of a pixel inside.

    Args:
        x: Of the centre.
        y: Of the centre.
        radius_x: Half the width before the turn.
        radius_y: Half the height before the turn.
        angle: Of the turn, in radians, from the x axis to the y axis.
    """
    if min(radius_x, radius_y) <= 0:
        raise Unusable("whose radius is not positive")
    largest = max(radius_x, radius_y, 1)
    count = math.ceil(math.pi / math.acos(1 - _ERROR / largest)) if largest < 1e6 else _MAX_POINTS
    turn = np.arange(min(count, _MAX_POINTS)) * (2 * math.pi / min(count, _MAX_POINTS))
    across, down = radius_x * np.cos(turn), radius_y * np.sin(turn)
    xs = x + across * math.cos(angle) - down * math.sin(angle)
    ys = y + across * math.sin(angle) + down * math.cos(angle)
    return [np.stack([xs, ys], axis=1).ravel().tolist()]


def pasted(text: Any, points: Any, height: int, width: int) -> dict[str, Any]:
    """The run lengths of a mask that is a picture of a part of the image.

    Args:
        text: The picture in base64; its pixels above 0 are the object.
        points: The first and the last pixel of the part, both within.
        height: Of the image.
        width: Of the image.

    Raises Unusable if the picture cannot be read, or is not of the size of the part.
    """
    x0, y0, x1, y1 = map(int, corners(points))
    try:
        part = images.decode_image(base64.b64decode(text, validate=True)).any(axis=2)
    except (TypeError, binascii.Error, ValueError, OSError) as error:
        raise Unusable("whose mask cannot be decoded") from error
    if part.shape != (y1 - y0 + 1, x1 - x0 + 1):
        raise Unusable("whose mask is of another size than its box")
    bitmap = np.zeros((height, width), bool)
    inside = part[max(-y0, 0) : max(height - y0, 0), max(-x0, 0) : max(width - x0, 0)]
    top, left = max(y0, 0), max(x0, 0)
    bitmap[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return rle.encode_bitmap(bitmap)
