"""Discs as bitmaps and as polygons, for tests of masks and transforms."""

import numpy as np

from maskrcnn_jax.data import rle
from maskrcnn_jax.data.dataset import Example


def disc(height, width, y, x, radius):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def polygon_of_disc(y, x, radius):
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return [
        np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        .ravel()
        .tolist()
    ]


def tight(bitmap):
    """Returns the bounding box of a bitmap."""
    rows, columns = np.nonzero(bitmap)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def make_example(bitmaps, polygons=None):
    """Makes an image of noise with the given objects, of classes 1, 2, ..."""
    height, width = bitmaps[0].shape
    rng = np.random.default_rng(0)
    return Example(
        image=rng.integers(0, 256, (height, width, 3), np.uint8),
        image_id=7,
        boxes=np.array([tight(bitmap) for bitmap in bitmaps], np.float32).reshape(-1, 4),
        classes=np.arange(1, len(bitmaps) + 1, dtype=np.int32),
        masks=polygons or [rle.encode_bitmap(bitmap) for bitmap in bitmaps],
    )


def paste(crop, box, height, width):
    """Samples a crop at the centre of each pixel, by the nearest cell."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    cells = np.stack(
        [(rows - box[1]) / (box[3] - box[1]), (columns - box[0]) / (box[2] - box[0])]
    ) * len(crop)
    inside = ((cells >= 0) & (cells < len(crop))).all(0)
    i, j = np.clip(cells, 0, len(crop) - 1).astype(int)
    return inside & (crop[i, j] >= 128)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()
