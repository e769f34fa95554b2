"""Pads an image's arrays to buckets and to slots of boxes, and crops buckets again.

Padding adds a batch axis of one; cropping expects arrays without one.
"""

import numpy as np

from maskrcnn_jax.parity.records import Levels

Size = tuple[int, int]  # Height and width in pixels.


def fill(array: np.ndarray, shape: Size) -> np.ndarray:
    """Pads ``[h, w, c]`` with zeros at the bottom and the right to ``[1, *shape, c]``."""
    filled = np.zeros((1, *shape, array.shape[2]), np.float32)
    filled[0, : array.shape[0], : array.shape[1]] = array
    return filled


def fill_levels(levels: Levels, bucket: Size) -> Levels:
    """Pads the feature maps of a canvas to the sizes of a bucket."""
    return {level: fill(array, cells(bucket, level)) for level, array in levels.items()}


def fill_anchors(levels: Levels, canvas: Size, bucket: Size) -> Levels:
    """Moves values ``[n, ...]`` for the anchors of a canvas to the same anchors of a bucket.

    The peers' anchors are ordered by row, column, ratio, ours by ratio, row, column.
    """
    filled = {}
    for level, array in levels.items():
        height, width = cells(canvas, level)
        grid = array.reshape(height, width, -1)
        grid = fill(grid, cells(bucket, level))[0]
        grid = grid.reshape(*grid.shape[:2], -1, *array.shape[1:])
        filled[level] = np.moveaxis(grid, 2, 0).reshape(1, -1, *array.shape[1:])
    return filled


def crop_levels(levels: Levels, canvas: Size) -> Levels:
    """The inverse of `fill_levels`."""
    cropped = {}
    for level, array in levels.items():
        height, width = cells(canvas, level)
        cropped[level] = array[:height, :width]
    return cropped


def crop_anchors(levels: Levels, canvas: Size, bucket: Size) -> Levels:
    """The inverse of `fill_anchors`."""
    cropped = {}
    for level, array in levels.items():
        height, width = cells(canvas, level)
        grid = array.reshape(-1, *cells(bucket, level), *array.shape[1:])[:, :height, :width]
        cropped[level] = np.moveaxis(grid, 0, 2).reshape(-1, *array.shape[1:])
    return cropped


def slots(array: np.ndarray, count: int) -> np.ndarray:
    """Pads ``[n, ...]`` with zeros to ``[1, count, ...]``."""
    filled = np.zeros((1, count, *array.shape[1:]), array.dtype)
    filled[0, : len(array)] = array
    return filled


def cells(size: Size, level: int) -> Size:
    """Height and width of the feature map of a level.

    P6 subsamples P5: it has the cells 0, 2, 4, ...
    """
    return -(-size[0] // 2**level), -(-size[1] // 2**level)
