"""Masks between the annotation and the arrays of a batch.

A `PlacedMask` is an annotation and the place of its image in a sample. Cropping, resizing and
flipping change the place only, so the annotation is resampled once, at the end. Polygons are
rasterised directly on the grid of the training target and lose no detail to the image resolution.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from maskrcnn_jax.data import rle
from maskrcnn_jax.data.rle import Mask

Points = float | Float[np.ndarray, " n"]


class Span(NamedTuple):
    """A range of pixels of the annotated image along one axis, and its interval in the sample."""

    start: int  # First pixel of the range, in the annotated image.
    length: int  # Number of pixels in the range.
    offset: float  # Start of the interval, in pixels of the sample.
    size: float  # Length of the interval, in pixels of the sample.
    mirrored: bool  # Whether the interval runs in the opposite direction.

    def crop(self, start: int, length: int) -> "Span":
        """Returns the span after the sample is cropped to ``length`` pixels from ``start``."""
        unchanged = self.offset == 0 and self.size == self.length and not self.mirrored
        if unchanged and 0 <= start and start + length <= self.length:
            # Keep whole pixels, so that the scale stays exact.
            return Span(self.start + start, length, 0, length, False)
        return self._replace(offset=self.offset - start)

    def resize(self, old: int, new: int) -> "Span":
        """Returns the span after the sample is resized from ``old`` to ``new`` pixels."""
        return self._replace(offset=self.offset * new / old, size=self.size * new / old)

    def flip(self, length: int) -> "Span":
        """Returns the span after a sample of ``length`` pixels is mirrored."""
        return self._replace(offset=length - self.offset - self.size, mirrored=not self.mirrored)

    @property
    def scale(self) -> float:
        """Sample pixels per annotated pixel, rounded to float32 as torchvision does for boxes."""
        return float(np.float32(self.size) / np.float32(self.length))

    def to_source(self, near: float, far: float) -> tuple[float, float]:
        """Maps the interval from ``near`` to ``far`` of the sample to the annotated image."""
        if self.mirrored:
            near, far = far, near
        return self.point_to_source(near), self.point_to_source(far)

    def point_to_source(self, x: Points) -> Points:
        """Maps points of the sample to the annotated image."""
        if self.mirrored:
            x = 2 * self.offset + self.size - x
        return (x - self.offset) / self.scale + self.start

    def from_source(self, near: float, far: float) -> tuple[float, float]:
        """Maps an interval of the annotated image to the sample: the inverse of `to_source`."""
        near, far = self.point_from_source(near), self.point_from_source(far)
        return (far, near) if self.mirrored else (near, far)

    def point_from_source(self, x: Points) -> Points:
        """Maps points of the annotated image to the sample: the inverse of `point_to_source`."""
        x = (x - self.start) * self.scale + self.offset
        return 2 * self.offset + self.size - x if self.mirrored else x

    def nearest(
        self, length: int
    ) -> tuple[Int[np.ndarray, " {length}"], Bool[np.ndarray, " {length}"]]:
        """Finds the annotated pixel of each of the first ``length`` pixels of the sample.

        Pixel ``i`` takes ``floor(i * old / new)`` in float32, the rule of "nearest" in PyTorch. The
        mask may therefore be up to one pixel off the image, which is resized with half-pixel
        centres. A mirrored sample has the same pixels in the opposite order.

        Returns:
            The indices of the annotated pixels, and whether each pixel lies inside the interval.
        """
        position = np.arange(length) - self.offset
        if self.mirrored:
            position = self.size - 1 - position
        step = np.float32(self.length) / np.float32(self.size)
        source = np.floor(position.astype(np.float32) * step).astype(int)
        inside = (position >= 0) & (position < self.size)
        return self.start + np.clip(source, 0, self.length - 1), inside


class PlacedMask(NamedTuple):
    """An annotated mask, and the place of its image in a sample."""

    annotation: Mask
    image_size: tuple[int, int]  # Height and width of the annotated image.
    rows: Span
    columns: Span


def place(annotation: Mask, image_size: tuple[int, int]) -> PlacedMask:
    """Places a mask in the sample that shows the whole annotated image unchanged."""
    rows, columns = (Span(0, side, 0, side, False) for side in image_size)
    return PlacedMask(annotation, image_size, rows, columns)


def from_bitmap(bitmap: np.ndarray, top: int = 0, left: int = 0) -> PlacedMask:
    """Makes a mask of the non-zero pixels of a bitmap (height, width) of a part of a sample.

    ``top`` and ``left`` are the place of the bitmap in the sample, in pixels.
    """
    placed = place(rle.encode_bitmap(bitmap), bitmap.shape)
    rows, columns = placed.rows._replace(offset=top), placed.columns._replace(offset=left)
    return placed._replace(rows=rows, columns=columns)


def transpose(mask: PlacedMask) -> PlacedMask:
    """Swaps the rows and the columns of a mask, in the sample and in the annotation."""
    annotation = mask.annotation
    if isinstance(annotation, list):
        swapped = [np.reshape(x, (-1, 2))[:, ::-1].ravel().tolist() for x in annotation]
    else:
        swapped = rle.encode_bitmap(rle.decode(annotation, *mask.image_size).T)
    return PlacedMask(swapped, mask.image_size[::-1], rows=mask.columns, columns=mask.rows)


def to_bitmap(mask: PlacedMask, size: tuple[int, int]) -> UInt8[np.ndarray, "{size[0]} {size[1]}"]:
    """Draws a mask in a sample of ``size`` (height, width): 255 inside the object, 0 outside.

    Polygons are rasterised at the size of the annotated image and resampled by `Span.nearest`.
    """
    rows, has_row = mask.rows.nearest(size[0])
    columns, has_column = mask.columns.nearest(size[1])
    annotated = rle.decode(mask.annotation, *mask.image_size)
    bitmap = annotated[rows.reshape(-1, 1), columns] * np.uint8(255)
    bitmap[~has_row], bitmap[:, ~has_column] = 0, 0
    return bitmap


def to_window(
    mask: PlacedMask, top: int, left: int, height: int, width: int
) -> Bool[np.ndarray, "{height} {width}"]:
    """Draws the part of a mask that lies in a window of a sample, in pixels of the sample.

    A pixel takes the annotated pixel at its centre. If the sample is resized, polygons are
    rasterised in its own pixels, and so keep the detail that an enlarged image shows.
    """
    if not height or not width:
        return np.zeros((height, width), bool)
    y, x = top + np.arange(height) + 0.5, left + np.arange(width) + 0.5
    rows, columns = mask.rows, mask.columns
    if isinstance(mask.annotation, dict) or rows.scale == columns.scale == 1:
        shown = _nearest_pixels(mask, y, x)
    else:
        on_window = []
        for polygon in mask.annotation:
            points = np.reshape(polygon, (-1, 2)).astype(np.float64)
            points[:, 0] = columns.point_from_source(points[:, 0]) - left
            points[:, 1] = rows.point_from_source(points[:, 1]) - top
            on_window.append(points.ravel().tolist())
        shown = rle.decode(on_window, height, width).astype(bool)
    shown[(y < rows.offset) | (y >= rows.offset + rows.size)] = False
    shown[:, (x < columns.offset) | (x >= columns.offset + columns.size)] = False
    return shown


def _nearest_pixels(
    mask: PlacedMask, y: Float[np.ndarray, " h"], x: Float[np.ndarray, " w"]
) -> Bool[np.ndarray, "h w"]:
    """Looks up the annotated pixels of a mask at points of the sample."""
    height, width = mask.image_size
    rows = np.clip(np.floor(mask.rows.point_to_source(y)), 0, height - 1).astype(int)
    columns = np.clip(np.floor(mask.columns.point_to_source(x)), 0, width - 1).astype(int)
    top, left = rows.min(), columns.min()
    encoded = rle.encode(mask.annotation, height, width)
    part = _decode_part(encoded, slice(top, rows.max() + 1), slice(left, columns.max() + 1))
    return part[(rows - top)[:, None], columns - left] > 0


def to_crop(
    mask: PlacedMask, box: Float[np.ndarray, "4"], mask_size: int
) -> UInt8[np.ndarray, "{mask_size} {mask_size}"]:
    """Resamples a mask to a grid over a box of the sample: 255 inside the object, 0 outside.

    Args:
        mask: The mask in the sample.
        box: x0 y0 x1 y1 in pixels of the sample.
        mask_size: Side of the grid, in cells.
    """
    x0, x1 = mask.columns.to_source(box[0], box[2])
    y0, y1 = mask.rows.to_source(box[1], box[3])
    # Annotated boxes are float32, so rounding to float32 recovers the annotated box exactly.
    source_box = np.array([x0, y0, x1, y1], np.float32)
    crop = crop_annotation(mask.annotation, source_box, mask_size)
    row_step = -1 if mask.rows.mirrored else 1
    column_step = -1 if mask.columns.mirrored else 1
    return crop[::row_step, ::column_step]


def crop_annotation(
    annotation: Mask, box: Float[np.ndarray, "4"], mask_size: int = 112
) -> UInt8[np.ndarray, "{mask_size} {mask_size}"]:
    """Resamples a mask to a grid over a box: 255 inside the object, 0 outside.

    Cell (i, j) covers x from ``x0 + j * w / mask_size`` to ``x0 + (j + 1) * w / mask_size``, where
    w is the width of the box, and y likewise. Polygons are rasterised on the grid itself. A bitmap
    is interpolated bilinearly, with antialiasing where it shrinks.

    Args:
        annotation: Polygons, or a compressed run-length encoding.
        box: x0 y0 x1 y1 in pixels of the annotated image, with positive width and height. It lies
            inside the image up to rounding; the rest is cut off.
        mask_size: Side of the grid, in cells.
    """
    if isinstance(annotation, dict):
        return _resample(annotation, box, mask_size)
    origin = box[:2].astype(np.float64)
    scale = mask_size / (box[2:] - box[:2]).astype(np.float64)
    on_grid = []
    for polygon in annotation:
        points = np.reshape(polygon, (-1, 2))
        on_grid.append(((points - origin) * scale).ravel().tolist())
    return rle.decode(on_grid, mask_size, mask_size) * np.uint8(255)


def _resample(
    annotation: dict[str, Any], box: Float[np.ndarray, "4"], mask_size: int
) -> UInt8[np.ndarray, "{mask_size} {mask_size}"]:
    limits = np.array(annotation["size"][::-1])
    near, far = np.clip(box[:2], 0, limits), np.clip(box[2:], 0, limits)
    # The bilinear filter reaches one cell or one pixel beyond the box, whichever is larger.
    reach = np.maximum((far - near) / mask_size, 1)
    left, top = np.maximum(np.floor(near - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(far + reach), limits).astype(int)
    bitmap = Image.fromarray(_decode_part(annotation, slice(top, bottom), slice(left, right)))
    corners = (near[0] - left, near[1] - top, far[0] - left, far[1] - top)
    return np.asarray(bitmap.resize((mask_size, mask_size), Image.Resampling.BILINEAR, box=corners))


def _decode_part(
    annotation: dict[str, Any], rows: slice, columns: slice
) -> UInt8[np.ndarray, "h w"]:
    """Decodes a part of a mask to 0 and 255.

    Decoding the full bitmap of each of hundreds of objects in an image would be too slow.
    """
    height = annotation["size"][0]
    lengths = rle.run_lengths(annotation["counts"])
    # Runs are column-major, so the columns of the part are contiguous.
    ends = np.clip(np.cumsum(lengths), columns.start * height, columns.stop * height)
    values = np.arange(len(lengths)) % 2 * 255
    pixels = np.repeat(values.astype(np.uint8), np.diff(ends, prepend=columns.start * height))
    return np.ascontiguousarray(pixels.reshape(-1, height)[:, rows].T)


def around(
    box: Float[np.ndarray, "4"], size: tuple[int, int], margin: int = 0
) -> tuple[int, int, int, int]:
    """Returns the window of the pixels that a box touches: top, left, height and width.

    Args:
        box: x0 y0 x1 y1 in pixels of a sample.
        size: Height and width of the sample, to which the window is cut.
        margin: Pixels to add on each side.
    """
    left, top = np.maximum(np.floor(box[:2]).astype(int) - margin, 0).tolist()
    right, bottom = np.minimum(np.ceil(box[2:]).astype(int) + margin, size[::-1]).tolist()
    return top, left, max(bottom - top, 0), max(right - left, 0)


def bounds(bitmap: Bool[np.ndarray, "h w"], top: int, left: int) -> Float[np.ndarray, "4"]:
    """Returns the smallest box around the pixels of a bitmap, whose first one is at top, left.

    The box is x0 y0 x1 y1, and only zeros if there are no pixels.
    """
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    if not len(rows):
        return np.zeros(4)
    ends = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return np.add(ends, [left, top, left, top], dtype=np.float64)
