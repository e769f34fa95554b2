"""Simple copy-paste (Ghiasi et al., 2021): pastes objects of one image over another one.

The edges are not blended: the paper finds no difference.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from maskrcnn_jax.data import masks
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.masks import PlacedMask
from maskrcnn_jax.data.sample import Pixels, Sample, Window

try:
    import cv2
except ImportError:  # OpenCV is optional: it only copies pixels faster.
    cv2 = None

_Window = tuple[slice, slice]  # Rows and columns.


@runtime_checkable
class Images(Protocol):
    """The images to paste from: a data set, or one with None where an image cannot be read."""

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def __getitem__(self, index: int, /) -> Example | None:
        """Reads one image."""
        ...


def copy_paste(
    rng: np.random.Generator,
    sample: Sample,
    probability: float | int,
    others: Images,
    prepare: Callable[[Example, Sequence[int]], Sample],
) -> Sample:
    """Pastes random objects of a random image over a sample, with the given probability.

    The objects are n draws with replacement of the n objects that have a mask, as in torchvision's
    ``SimpleCopyPaste``: each is pasted with a probability of about 0.63. If the other image has
    another size, it is shifted at random, as far inside or around the sample as it fits.

    Args:
        rng: Draws everything.
        sample: The image below.
        probability: Of pasting anything.
        others: The images to paste from.
        prepare: Makes a sample of an example and a seed.
    """
    if rng.random() >= probability:
        return sample
    example, seed = others[int(rng.integers(len(others)))], int(rng.integers(2**32))
    if example is None:
        return sample
    other = prepare(example, (seed,))
    masked = [i for i, mask in enumerate(other.masks) if mask is not None]
    if not masked:
        return sample
    chosen = np.unique(rng.integers(len(masked), size=len(masked)))
    top, left = (
        int(rng.integers(min(room, 0), max(room, 0) + 1))
        for room in np.subtract(sample.image.shape[:2], other.image.shape[:2]).tolist()
    )
    return paste(sample, samples.select(other, np.array(masked)[chosen]), top, left)


def paste(sample: Sample, other: Sample, top: int = 0, left: int = 0) -> Sample:
    """Pastes all objects of another sample over a sample, one after the other.

    An object hides what lies below it, objects pasted before it too. The box of an object of which
    something is hidden is tightened to what is visible; without a mask an object counts as its box.
    It is removed if nothing is visible, or if a side of its box becomes shorter than one pixel;
    ``num_removed`` counts those of ``sample``.

    Args:
        sample: The image below.
        other: The image and the objects to paste, all of which need a mask.
        top: The row of ``sample`` where the first row of ``other`` is.
        left: The column of ``sample`` where the first column of ``other`` is.

    Raises:
        ValueError: The images have different numbers of channels or types of pixels.
    """
    if (sample.image.shape[2], sample.image.dtype) != (other.image.shape[2], other.image.dtype):
        kinds = [f"{x.image.shape[2]} channels of {x.image.dtype}" for x in (other, sample)]
        raise ValueError(
            f"image id {other.image_id} has {kinds[0]}, and cannot be pasted over image id "
            f"{sample.image_id}, which has {kinds[1]}"
        )
    height, width = sample.image.shape[:2]
    first_row, first_column = max(-top, 0), max(-left, 0)
    shown = Window(
        first_row,
        first_column,
        min(other.image.shape[0], height - top) - first_row,
        min(other.image.shape[1], width - left) - first_column,
    )
    image, covered = sample.image.copy(), np.zeros((height, width), bool)
    above = _pile(samples.crop(other, shown), (max(top, 0), max(left, 0)), image, covered)
    below = _hide(sample, covered)
    return below._replace(
        image=image,
        boxes=np.concatenate([below.boxes, above.boxes]),
        classes=np.concatenate([below.classes, above.classes]),
        masks=below.masks + above.masks,
    )


def _pile(
    other: Sample,
    place: tuple[int, int],
    image: Pixels,
    covered: Bool[np.ndarray, "h w"],
) -> Sample:
    """Draws the objects of a sample into an image and into a map of covered pixels, in place.

    Args:
        other: The sample, whose last object is on top.
        place: Row and column of its first pixel in the image.
        image: The image to draw into.
        covered: The map of its pixels.

    Returns:
        The visible objects, as bitmaps in the image.
    """
    top, left = place
    height, width = other.image.shape[:2]
    area = slice(top, top + height), slice(left, left + width)
    image, covered = image[area], covered[area]
    boxes, bitmaps = other.boxes.copy(), list(other.masks)
    for i in reversed(range(len(boxes))):
        window = _around(boxes[i], other.masks[i], covered.shape)
        drawn = _draw(other.masks[i], boxes[i], window)
        visible = drawn & ~covered[window]
        if not np.array_equal(visible, drawn) or not drawn.any():
            boxes[i] = _tighten(boxes[i], visible, window)
        rows, columns = window
        bitmaps[i] = masks.from_bitmap(visible, rows.start + top, columns.start + left)
        covered[window] |= visible
        _copy(other.image[window], visible, image[window])
    kept = np.flatnonzero(boxes.any(1))
    shifted = other._replace(boxes=boxes + np.array([left, top, left, top]), masks=bitmaps)
    return samples.select(shifted, kept)


def _hide(sample: Sample, covered: Bool[np.ndarray, "h w"]) -> Sample:
    """Cuts the covered pixels off all objects, and removes those of which too little is left.

    The mask of an object near covered pixels becomes a bitmap, which no pasted mask overlaps.
    """
    boxes, remaining = sample.boxes.copy(), list(sample.masks)
    for i, mask in enumerate(sample.masks):
        window = _around(boxes[i], mask, covered.shape)
        if not covered[window].any():
            continue
        drawn = _draw(mask, boxes[i], window)
        visible = drawn & ~covered[window]
        if not np.array_equal(visible, drawn):
            boxes[i] = _tighten(boxes[i], visible, window)
        if mask is not None and drawn.any():
            rows, columns = window
            remaining[i] = masks.from_bitmap(visible, rows.start, columns.start)
    kept = np.flatnonzero(boxes.any(1))
    num_removed = sample.num_removed + len(boxes) - len(kept)
    cut = sample._replace(boxes=boxes, masks=remaining, num_removed=num_removed)
    return samples.select(cut, kept)


def _copy(source: Pixels, where: Bool[np.ndarray, "h w"], target: Pixels) -> None:
    """Copies the pixels that are chosen into another image of the same size, in place."""
    if cv2 is not None:
        cv2.copyTo(source, where.view(np.uint8), target)
    else:
        np.copyto(target, source, where=where[..., None])


def _around(box: Float[np.ndarray, "4"], mask: PlacedMask | None, size: tuple[int, int]) -> _Window:
    """Returns the pixels of a box and around it, where its mask may be: one annotated pixel more.

    ``size`` is height and width of the image that has them.
    """
    margin = 1 if mask is None else math.ceil(max(mask.rows.scale, mask.columns.scale, 1))
    x0, y0 = np.maximum(np.floor(box[:2]).astype(int) - margin, 0).tolist()
    x1, y1 = np.minimum(np.ceil(box[2:]).astype(int) + margin, size[::-1]).tolist()
    return slice(y0, y1), slice(x0, x1)


def _draw(
    mask: PlacedMask | None, box: Float[np.ndarray, "4"], window: _Window
) -> Bool[np.ndarray, "h w"]:
    """Draws a mask, or the box of an object without one, in a window."""
    rows, columns = window
    if mask is not None:
        size = rows.stop - rows.start, columns.stop - columns.start
        return masks.to_window(mask, rows.start, columns.start, *size)
    y, x = np.ogrid[rows, columns]
    return (x + 1 > box[0]) & (x < box[2]) & (y + 1 > box[1]) & (y < box[3])


def _tighten(
    box: Float[np.ndarray, "4"], visible: Bool[np.ndarray, "h w"], window: _Window
) -> Float[np.ndarray, "4"]:
    """Cuts a box to the visible pixels of a window; to nothing if a side is shorter than a pixel.

    Returns zeros for nothing.
    """
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if not len(rows):
        return np.zeros(4)
    top, left = window[0].start, window[1].start
    near = np.maximum(box[:2], [left + columns[0], top + rows[0]])
    far = np.minimum(box[2:], [left + columns[-1] + 1, top + rows[-1] + 1])
    return np.concatenate([near, far]) if (far - near >= 1).all() else np.zeros(4)
