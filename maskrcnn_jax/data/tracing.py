"""Traces masks: polygons along the edges of pixels, which cover exactly the pixels of the mask."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

Ring = list[tuple[int, int]]  # The corners (x, y); the first one is repeated at the end.

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # Each is the left turn of the one before.


def polygons(mask: Bool[np.ndarray, "y x"], offset: tuple[int, int] = (0, 0)) -> list[list[Ring]]:
    """Returns the parts of a mask, each as an outer ring followed by the rings of its holes.

    Pixel (y, x) is the square from (x, y) to (x + 1, y + 1). Pixels that touch at a corner only are
    different parts. The signed area of outer rings is positive, and that of holes is negative.

    Args:
        mask: The pixels of the mask.
        offset: The (y, x) of its first pixel in the image.
    """
    outer: list[list[Ring]] = []
    holes: list[tuple[tuple[float, float], Ring]] = []
    for ring, inside in _rings(mask):
        placed = [(x + offset[1], y + offset[0]) for x, y in ring]
        if signed_area(ring) > 0:
            outer.append([placed])
        else:
            holes.append(((inside[0] + offset[1], inside[1] + offset[0]), placed))
    for point, hole in holes:
        around = [part for part in outer if _contains(part[0], point)]
        min(around, key=lambda part: signed_area(part[0])).append(hole)
    return outer


def signed_area(ring: Ring) -> float:
    """The area of a ring in pixels, negative if it turns from y to x."""
    x, y = np.array(ring, float).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _rings(mask: Bool[np.ndarray, "y x"]) -> Iterator[tuple[Ring, tuple[float, float]]]:
    """All rings with the mask on their left, and the centre of a pixel of the mask beside each."""
    directions = _edges(mask)
    while directions:
        start = next(iter(directions))  # A corner: the leftmost one of its row.
        (x, y), direction = start, directions[start][0]
        # The pixel on the left of the first edge.
        dx, dy = _STEPS[direction]
        beside = x + (dx - dy) / 2, y + (dx + dy) / 2
        corners: Ring = []
        while not corners or (x, y) != start or _goes_on(directions.get(start), direction):
            possible = directions[x, y]
            turn = (direction + 1) % 4  # Of two edges the left turn stays with the pixel.
            if not corners or turn not in possible:
                turn = possible[0]
            possible.remove(turn)
            if not possible:
                del directions[x, y]
            if turn != direction or not corners:
                corners.append((x, y))
            direction = turn
            x, y = x + _STEPS[turn][0], y + _STEPS[turn][1]
        yield [*corners, corners[0]], beside


def _goes_on(possible: list[int] | None, direction: int) -> bool:
    """Whether a ring that is back at its start has another edge of the same pixel there."""
    return possible is not None and (direction + 1) % 4 in possible


def _edges(mask: Bool[np.ndarray, "y x"]) -> dict[tuple[int, int], list[int]]:
    """The directions of the edges that start at each corner, with the mask on their left."""
    padded = np.pad(mask, 1).astype(np.int8)
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    for change, direction, (dx, dy) in (
        (down == 1, 0, (0, 0)),  # The mask begins below: to the right.
        (right == -1, 1, (0, 0)),  # It ends on the left: downwards.
        (down == -1, 2, (1, 0)),
        (right == 1, 3, (0, 1)),
    ):
        for y, x in np.argwhere(change).tolist():
            found[x + dx, y + dy].append(direction)
    return found


def _contains(ring: Ring, point: tuple[float, float]) -> bool:
    """Whether a point lies inside a ring, by the crossings of a ray to the right."""
    corners, (x, y) = np.array(ring, float), point
    a, b = corners[:-1], corners[1:]
    crosses = (np.minimum(a[:, 1], b[:, 1]) < y) & (np.maximum(a[:, 1], b[:, 1]) > y)
    return bool((crosses & (a[:, 0] > x)).sum() % 2)
