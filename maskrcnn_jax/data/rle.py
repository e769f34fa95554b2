"""COCO's three mask formats: polygons, and run-length encodings with and without compression."""

from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from pycocotools import mask as codec

from maskrcnn_jax.data import clipping

# Polygons as flat lists x0 y0 x1 y1 ..., or a run-length encoding with "size" and "counts".
Mask = list | dict

_MOST_STEPS = 1 << 20  # Cells along the outline of a piece of a polygon; each takes 80 bytes.


def encode(mask: Mask, height: int, width: int) -> dict[str, Any]:
    """Converts a mask of any format to a compressed run-length encoding, with ``counts`` a string.

    Polygons are rasterised in an image of ``height`` by ``width`` pixels; the mask is their union.
    """
    if isinstance(mask, list):
        near = [part for part in (clipping.cut(x, height, width) for x in mask) if part]
        encoded = codec.merge(_drawn(near or [[0] * 6], height, width))
    elif isinstance(mask["counts"], list):
        encoded = codec.frPyObjects(mask, height, width)
    else:
        encoded = mask
    counts = encoded["counts"]
    counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [height, width], "counts": counts}


def _drawn(polygons: list, height: int, width: int) -> list[dict[str, Any]]:
    """Rasterises polygons that `clipping.cut` has cut.

    pycocotools keeps every step along an outline in memory. A polygon with many points is therefore
    drawn in pieces, which share its first point; a pixel lies inside if an odd number of pieces
    cover it.
    """
    most = max(_MOST_STEPS // (3 * max(height, width)), 2)  # Points of a piece.
    if all(len(polygon) <= 2 * most for polygon in polygons):
        return codec.frPyObjects(polygons, height, width)
    drawn = []
    for polygon in polygons:
        starts = range(2, max(len(polygon) - 2, 3), 2 * most)
        pieces = [[*polygon[:2], *polygon[i : i + 2 * most + 2]] for i in starts]
        ends = [np.cumsum(run_lengths(_text(x))) for x in codec.frPyObjects(pieces, height, width)]
        places, counts = np.unique(np.concatenate([x[:-1] for x in ends]), return_counts=True)
        edges = [0, *places[counts % 2 == 1].tolist(), height * width]
        runs = {"size": [height, width], "counts": np.diff(edges).tolist()}
        drawn.append(codec.frPyObjects(runs, height, width))
    return drawn


def _text(encoded: dict[str, Any]) -> str:
    return encoded["counts"].decode("ascii")


def encode_bitmap(bitmap: np.ndarray) -> dict[str, Any]:
    """Encodes the non-zero pixels of a bitmap (height, width) as compressed run lengths."""
    encoded = codec.encode(np.asfortranarray(bitmap != 0, np.uint8))
    return {"size": list(bitmap.shape), "counts": encoded["counts"].decode("ascii")}


def decode(mask: Mask, height: int, width: int) -> UInt8[np.ndarray, "{height} {width}"]:
    """Converts a mask of any format to pixels: 1 inside, 0 outside."""
    lengths = run_lengths(encode(mask, height, width)["counts"])
    # Runs alternate between outside and inside; the first one is outside. They are column-major.
    inside = (np.arange(lengths.size) % 2).astype(np.uint8)
    return np.repeat(inside, lengths).reshape(width, height).T


def run_lengths(counts: str) -> Int64[np.ndarray, " n"]:
    """Decodes COCO's ``counts`` string to run lengths, alternately outside and inside the mask.

    A malformed string gives [-1]. The caller has to check that the lengths add up to the number of
    pixels.

    The format is that of pycocotools. Each character minus "0" is a digit of six bits. The lower
    five bits are part of a number, lowest digit first; the sixth bit says that another digit
    follows. The fifth bit of the last digit is the sign. From the fourth number on, each number is
    the difference to the run length two places before.
    """
    content = counts.encode("utf-8", "surrogatepass")
    digits = np.frombuffer(content, np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero((digits & 32) == 0)
    if digits.size == 0 or digits.min() < 0 or digits.max() > 63:
        return np.array([-1])
    if last.size == 0 or last[-1] != digits.size - 1:
        return np.array([-1])
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(digits.size) - np.repeat(first, last - first + 1)
    if place.max() > 6:  # More than 35 bits, which no image needs, would overflow at some point.
        return np.array([-1])
    numbers = np.add.reduceat((digits & 31) << (5 * place), first)
    numbers -= np.where(digits[last] & 16, 1 << (5 * (place[last] + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
