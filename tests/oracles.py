"""Slow references in NumPy: plain loops that follow the published rules step by step."""

import itertools
import math

import numpy as np


def nms(boxes, valid, threshold, groups=None):
    """Greedy non-maximum suppression of boxes by descending score; survivors as bool ``[n]``."""
    boxes, keep = np.asarray(boxes, np.float32), np.array(valid, bool)
    groups = np.zeros(len(boxes), int) if groups is None else np.asarray(groups)
    for i in range(len(boxes)):
        if keep[i]:
            close = iou(boxes[i], boxes[i + 1 :]) > np.float32(threshold)
            keep[i + 1 :] &= ~(close & (groups[i + 1 :] == groups[i]))
    return keep


def iou(box, others):
    """Intersection over union of a float32 box with ``others``; 0 for boxes without area."""
    x0, y0, x1, y1 = others.T
    width = np.maximum(np.minimum(box[2], x1) - np.maximum(box[0], x0), 0)
    height = np.maximum(np.minimum(box[3], y1) - np.maximum(box[1], y0), 0)
    intersection = width * height
    union = (box[2] - box[0]) * (box[3] - box[1]) + (x1 - x0) * (y1 - y0) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def roi_align(features, boxes, scale, resolution, sampling_ratio, aligned):
    """RoIAlign of a map ``[h, w, c]`` by the rule of the C++ kernels, in float64: ``[r, p, p, c]``.

    With a ratio of 0, a bin has as many samples per axis as cells, rounded up. The division is in
    float32, which decides whether 7 bins on 7 cells have one sample each.
    """
    features = np.asarray(features, np.float64)
    pooled = np.zeros((len(boxes), resolution, resolution, features.shape[2]))
    for r, box in enumerate(np.asarray(boxes, np.float64)):
        x0, y0, x1, y1 = box * scale - (0.5 if aligned else 0.0)
        width, height = x1 - x0, y1 - y0
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        rows, columns = (
            samples_per_bin(side, resolution, sampling_ratio) for side in (height, width)
        )
        for i in range(resolution):
            for j in range(resolution):
                for k in range(rows):
                    for m in range(columns):
                        y = y0 + (i + (k + 0.5) / rows) * height / resolution
                        x = x0 + (j + (m + 0.5) / columns) * width / resolution
                        pooled[r, i, j] += bilinear(features, y, x) / max(rows * columns, 1)
    return pooled


def samples_per_bin(length, resolution, sampling_ratio):
    """Samples of a bin along one axis; not positive, hence none, if the length is negative."""
    if sampling_ratio > 0:
        return sampling_ratio
    return math.ceil(np.float32(length) / np.float32(resolution))


def bilinear(features, y, x):
    """The map at one point: zero over a cell outside, the nearest border value within a cell."""
    height, width, channels = features.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(channels)
    y0, y1, fy = neighbours(y, height)
    x0, x1, fx = neighbours(x, width)
    top = (1 - fx) * features[y0, x0] + fx * features[y0, x1]
    bottom = (1 - fx) * features[y1, x0] + fx * features[y1, x1]
    return (1 - fy) * top + fy * bottom


def neighbours(position, size):
    """The two cells around a position, and its distance to the first."""
    position = max(position, 0.0)
    low = math.floor(position)
    if low >= size - 1:
        return size - 1, size - 1, 0.0
    return low, low + 1, position - low


def roi_pool(features, boxes, scale, resolution):
    """RoIPool of a map ``[h, w, c]`` by the rule of the C++ kernels: values and their cells.

    Both are ``[r, p, p, c]``. Cells are counted row by row; -1 stands for none.
    """
    height, width, channels = features.shape
    values = np.zeros((len(boxes), resolution, resolution, channels), np.float32)
    cells = np.full(values.shape, -1)
    for r, box in enumerate(np.asarray(boxes, np.float32)):
        x0, y0, x1, y1 = (round_half_away(coordinate) for coordinate in box * np.float32(scale))
        for i, j in np.ndindex(resolution, resolution):
            rows = range(*bin_bounds(i, y0, y1, resolution, height))
            columns = range(*bin_bounds(j, x0, x1, resolution, width))
            if rows and columns:
                values[r, i, j] = np.finfo(np.float32).min
            for y, x, c in itertools.product(rows, columns, range(channels)):
                if features[y, x, c] > values[r, i, j, c]:
                    values[r, i, j, c], cells[r, i, j, c] = features[y, x, c], y * width + x
    return values, cells


def bin_bounds(i, first, last, resolution, size):
    """The first cell of bin i and the one after its last; products are rounded to float32."""
    length = np.float32(max(last - first + 1, 1)) / np.float32(resolution)
    start, stop = (math.floor(np.float32(i) * length), math.ceil(np.float32(i + 1) * length))
    return [min(max(bound + first, 0), size) for bound in (start, stop)]


def round_half_away(x):
    """Rounds halves away from zero, as C does and Python does not."""
    whole = math.floor(abs(float(x)) + 0.5)
    return whole if x > 0 else -whole
