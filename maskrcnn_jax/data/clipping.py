"""Cuts polygons that reach far beyond the grid they are drawn on.

pycocotools walks along every edge in steps of a fifth of a pixel, with 32-bit numbers: a corner far
away takes minutes and gigabytes, or ends the process.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


def cut(polygon: Sequence[float | int], height: int, width: int) -> Any:
    """Cuts a polygon to three times the height and width of a grid, with the grid in the middle.

    Args:
        polygon: x0 y0 x1 y1 ..., finite numbers in cells.
        height: Of the grid, in cells.
        width: Of the grid.

    Returns:
        The same object if all points are that near. Otherwise a list with the same area on the
        grid, which is empty if there is none.
    """
    side = min(height, width)
    if -side <= min(polygon) and max(polygon) <= 2 * side:
        return polygon
    points = np.array(polygon, np.float64).reshape(-1, 2)
    size = np.array([width, height], np.float64)
    if (points >= -size).all() and (points <= 2 * size).all():
        return polygon
    for axis in (0, 1):
        points = _cut_half_plane(points, axis, -size[axis], sign=1)
        points = _cut_half_plane(points, axis, 2 * size[axis], sign=-1)
    return points.ravel().tolist() if len(points) >= 3 else []


def _cut_half_plane(
    points: Float[np.ndarray, "n 2"], axis: int, limit: float, sign: int
) -> Float[np.ndarray, "m 2"]:
    """One step of Sutherland and Hodgman (1974): keeps what lies on one side of a line.

    Args:
        points: Corners of a polygon.
        axis: 0 for a vertical line, 1 for a horizontal one.
        limit: The place of the line on the axis.
        sign: 1 keeps larger coordinates, -1 smaller ones.
    """
    distance = sign * (points[:, axis] - limit)
    following, after = np.roll(distance, -1), np.roll(points, -1, axis=0)
    inside, crossing = distance >= 0, (distance >= 0) != (following >= 0)
    share = distance / np.where(crossing, distance - following, 1)
    between = points + (after - points) * share[:, None]
    between[:, axis] = limit
    both = np.stack([points, between], axis=1)
    return both[np.stack([inside, crossing], axis=1)]
