"""Reads and cuts the masks of annotations: outlines, and run lengths.

An outline is a polygon, a flat list x0 y0 x1 y1 ... in pixels. Labelling tools write it in several
nestings; those with a single meaning are read.
"""

import ast
import json
from typing import Any

import numpy as np
from jaxtyping import Shaped

from maskrcnn_jax.data import clipping, rle
from maskrcnn_jax.data.rle import Mask
from maskrcnn_jax.data.values import number, whole

_MOST = 1e12  # Pixels. Coordinates of maps are below; larger values are mistakes.
_MAX_LENGTH = 1 << 22  # Pixels of an outline; those who draw it take up to 80 bytes for each.
_MAX_TEXT = 10**7  # Characters of a mask that is JSON text in a string.

TOO_FEW = "whose outline has fewer than 3 points"
ODD = "whose outline has an odd number of values"
NO_NUMBERS = "whose outline has values that are no numbers, or that no image can have"
NO_MASK = "whose segmentation is neither polygons nor run lengths"
OUTSIDE = "whose mask lies outside of the image"
OTHER_SIZE = "whose mask is of another size than the image"
BAD_RUNS = "whose run lengths do not fit the size of the mask"
LONG = "whose outline is longer than four million pixels"
PARTS = "with a part that is no polygon; the part is left out"
FAR = "whose outline reaches far beyond the image, and is cut"


class Unusable(Exception):
    """A mask that cannot be read; the message is a kind of `Findings`."""


def read(value: Any, height: int, width: int) -> tuple[Mask | None, list[str]]:
    """Reads the ``segmentation`` of an annotation.

    Args:
        value: Polygons in any nesting, run lengths, or JSON text of these.
        height: Of the image, in pixels.
        width: Of the image.

    Returns:
        Polygons, a run-length encoding, or None if there is no mask; and the kinds of what was
        repaired.

    Raises:
        Unusable: There is a mask, but it cannot be read.
    """
    if isinstance(value, str) and value.strip():
        value = _from_text(value)
    if not value:
        return None, []
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        return _run_lengths(value, height, width), []
    if not isinstance(value, list):
        raise Unusable(NO_MASK)
    if all(_is_plain(part, min(height, width)) for part in value):
        _check_length(value, height, width)
        if not any(_touches(polygon, height, width) for polygon in value):
            raise Unusable(OUTSIDE)
        return value, []
    return _polygons(value, height, width)


def _is_plain(part: Any, side: int) -> bool:
    """Whether a part is a polygon to be taken as it is; a fast test for the millions in COCO."""
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and set(map(type, part)) <= {int, float}
        and -side <= min(part)
        and max(part) <= 2 * side
        and sum(part) == sum(part)  # Not NaN, which is no minimum either.
    )


def _from_text(text: str) -> Any:
    try:
        value = json.loads(text) if len(text) <= _MAX_TEXT else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list | dict):
        raise Unusable(NO_MASK)
    return value


def _polygons(value: list, height: int, width: int) -> tuple[Mask, list[str]]:
    polygons, problems = [], []
    for part in _parts(value):
        try:
            polygons.append(_polygon(part))
        except Unusable as problem:
            problems.append(str(problem))
    if not polygons:
        raise Unusable(problems[0] if problems else NO_MASK)
    repaired = [PARTS] if problems else []
    kept = [clipping.cut(polygon, height, width) for polygon in polygons]
    if any(new is not old for new, old in zip(kept, polygons, strict=True)):
        repaired.append(FAR)
    kept = [polygon for polygon in kept if polygon]
    _check_length(kept, height, width)
    if not any(_touches(polygon, height, width) for polygon in kept):
        raise Unusable(OUTSIDE)
    return kept, repaired


def _parts(value: list, depth: int = 0) -> list[list]:
    """The flat lists of numbers in a nested list."""
    value = [[x.get("x"), x.get("y")] if isinstance(x, dict) else x for x in value]
    if not any(isinstance(x, list) for x in value):
        return [value]
    lists = [x for x in value if isinstance(x, list)]
    are_points = all(len(x) == 2 and not any(isinstance(y, list) for y in x) for x in lists)
    if are_points and len(lists) == len(value) >= 3:
        return [[coordinate for point in lists for coordinate in point]]
    if depth == 3:
        raise Unusable(NO_MASK)
    nested = [part for x in lists for part in _parts(x, depth + 1)]
    # Numbers beside lists belong to no part.
    return nested + ([] if len(lists) == len(value) else [[]])


def _polygon(values: list) -> list:
    """Checks one outline. Raises Unusable."""
    if not set(map(type, values)) <= {int, float}:
        values = [number(value) for value in values]
        if None in values:
            raise Unusable(NO_NUMBERS)
    if len(values) % 2:
        raise Unusable(ODD)
    if len(values) < 6:
        raise Unusable(TOO_FEW)
    if not all(abs(value) < _MOST for value in values):  # NaN fails this too.
        raise Unusable(NO_NUMBERS)
    return values


def _check_length(polygons: list[list], height: int, width: int) -> None:
    """Raises Unusable if polygons with points near the image have very long outlines."""
    if sum(map(len, polygons)) * 3 * max(height, width) < _MAX_LENGTH:  # Each edge is shorter.
        return
    length = 0.0
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2)).astype(np.float64)
        length += np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    if length > _MAX_LENGTH:
        raise Unusable(LONG)


def _touches(polygon: list, height: int, width: int) -> bool:
    """Whether the bounds of a polygon and the image have an area in common."""
    xs, ys = polygon[::2], polygon[1::2]
    return min(xs) < width and max(xs) > 0 and min(ys) < height and max(ys) > 0


def _run_lengths(mask: dict, height: int, width: int) -> Mask:
    """Checks a run-length encoding. Raises Unusable."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or not isinstance(counts, str | list):
        raise Unusable(NO_MASK)
    if [whole(side) for side in size] != [height, width]:
        raise Unusable(OTHER_SIZE)
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        counts = _from_bytes(counts)
    elif isinstance(counts, str) and counts[:1] == "[" and "," in counts:  # Never compressed.
        counts = _from_text(counts)
    if isinstance(counts, list) and not set(map(type, counts)) <= {int}:
        counts = [whole(count) for count in counts]
    lengths, num_pixels = _lengths(counts), height * width
    # If run lengths are too short, pycocotools returns uninitialised memory.
    in_range = ((lengths >= 0) & (lengths <= num_pixels)).all()
    if not (in_range and lengths.sum() == num_pixels):
        raise Unusable(BAD_RUNS)
    if counts is mask["counts"] and size == [height, width] and set(map(type, size)) == {int}:
        return mask
    return {"size": [height, width], "counts": counts}


def _from_bytes(text: str) -> str:
    """Reads the text of a bytes literal, as Python's str(counts) writes it."""
    try:
        return ast.literal_eval(text).decode("ascii")
    except (ValueError, SyntaxError, MemoryError, RecursionError, AttributeError) as error:
        raise Unusable(BAD_RUNS) from error


def _lengths(counts: str | list) -> Shaped[np.ndarray, " n"]:
    """Returns the run lengths of ``counts``, compressed or not, or [-1] if they are malformed."""
    if isinstance(counts, str):
        return rle.run_lengths(counts)
    try:
        lengths = np.array(counts)
    except (ValueError, OverflowError):  # For instance lists of different lengths.
        return np.array([-1])
    is_flat = lengths.ndim == 1 and np.issubdtype(lengths.dtype, np.integer)
    return lengths if is_flat else np.array([-1])


def bounds(mask: Mask) -> tuple[float | int, ...] | None:
    """The box x, y, width, height around a mask that `read` has returned; None if it is empty.

    Coordinates of polygons are taken as they are, those of run lengths are whole pixels.
    """
    if isinstance(mask, list):
        xs = [x for polygon in mask for x in polygon[::2]]
        ys = [y for polygon in mask for y in polygon[1::2]]
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    height, counts = mask["size"][0], mask["counts"]
    ends = np.cumsum(_lengths(counts))
    starts, ends = ends[::2][: len(ends[1::2])], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return None
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height
    crosses = starts // height != (ends - 1) // height  # A run that goes on in the next column.
    top = 0 if crosses.any() else int((starts % height).min())
    bottom = height - 1 if crosses.any() else int(((ends - 1) % height).max())
    return left, top, right - left + 1, bottom - top + 1
