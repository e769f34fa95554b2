"""Masks as patches of a drawing: cut to their inside, resampled to its pixels, with smooth edges.

A patch is a part of a mask with the (y, x) of its first pixel; the mask is zero outside.
"""

import math

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageFilter

Patch = tuple[np.ndarray, tuple[int, int]]  # Probabilities, and the (y, x) of their first pixel.

_SMOOTHING = 0.55  # Standard deviation in pixels of a binary mask: rounds its steps, keeps lines.


def pixels(mask: Patch | np.ndarray, scale: float | int, size: tuple[int, int]) -> Patch:
    """Converts a mask to a patch of a drawing: 255 inside, 0 outside.

    Probabilities are interpolated before they are compared with 0.5. Binary masks have no values
    between: where the drawing is larger than the mask, the steps of its edge are rounded.

    Args:
        mask: Probabilities or a binary mask, as a patch or full-size.
        scale: Factor by which the drawing is larger than the image.
        size: Width and height of the drawing.
    """
    patch, (top, left) = mask if isinstance(mask, tuple) else _cut(mask)
    if not patch.size:
        return np.zeros((0, 0), np.uint8), (0, 0)
    inside = patch > 0.5
    if scale != 1:
        is_stepped = scale > 1 and bool((patch == inside).all())
        sampling = Image.Resampling.NEAREST if is_stepped else Image.Resampling.BILINEAR
        resampled, (top, left) = _resample(patch, (top, left), scale, sampling)
        inside = _smoothed(resampled, scale) if is_stepped else resampled > 0.5
    rows = slice(max(-top, 0), max(size[1] - top, 0))
    columns = slice(max(-left, 0), max(size[0] - left, 0))
    return inside[rows, columns] * np.uint8(255), (max(top, 0), max(left, 0))


def _cut(mask: Shaped[np.ndarray, "... h w"]) -> Patch:
    """Crops a full-size mask to the bounding box of its inside."""
    mask = mask.reshape(mask.shape[-2:]) > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask[:0, :0], (0, 0)
    patch = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return patch, (int(rows[0]), int(columns[0]))


def _resample(
    patch: np.ndarray, offset: tuple[int, int], scale: float | int, sampling: Image.Resampling
) -> Patch:
    """Resamples a patch to the whole pixels of an image ``scale`` times as large."""
    edge = math.ceil(1 / scale)  # Padding of at least one output pixel, in input pixels.
    (y, x), (height, width) = offset, patch.shape
    top, bottom = math.floor(y * scale), math.ceil((y + height) * scale)
    left, right = math.floor(x * scale), math.ceil((x + width) * scale)
    # The output rectangle in pixels of the padded patch.
    x0, x1 = (end / scale - x + edge for end in (left, right))
    y0, y1 = (end / scale - y + edge for end in (top, bottom))
    padded = Image.fromarray(np.pad(patch.astype(np.float32), edge))
    size = right - left, bottom - top
    resized = padded.resize(size, sampling, box=(x0, y0, x1, y1))
    return np.asarray(resized), (top, left)


def _smoothed(resampled: np.ndarray, scale: float | int) -> np.ndarray:
    """The inside of an enlarged binary mask; a mask of single pixels stays as it is."""
    margin = math.ceil(2 * scale)  # The blur would repeat the last pixels, where zeros follow.
    padded = Image.fromarray(np.pad(np.rint(255 * resampled).astype(np.uint8), margin))
    blurred = np.asarray(padded.filter(ImageFilter.GaussianBlur(_SMOOTHING * scale)))
    inside = blurred[margin:-margin, margin:-margin] > 127
    return inside if inside.any() else resampled > 0.5
