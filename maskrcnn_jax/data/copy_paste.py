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
from maskrcnn_jax.data.sample import Sample, Window
from maskrcnn_jax.images import Pixels

try:
    import cv2
except ImportError:  # OpenCV is optional: it only copies pixels faster.
    cv2 = None


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

    An object hides what lies below it, objects pasted before it too. All pasted masks, and those
    near them, become bitmaps in pixels of ``sample``, and their boxes are tightened to what is
    visible; without a mask an object counts as its box. An object is removed if nothing of it is
    visible, or if a side of its box becomes shorter than one pixel. ``num_removed`` counts those of
    ``sample``.

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
    boxes, bitmaps, kept = other.boxes.copy(), list(other.masks), []
    for i in reversed(range(len(boxes))):
        window = Window(*masks.around(boxes[i], (height, width)))
        part = _part(window)
        visible = masks.to_window(other.masks[i], *window) & ~covered[part]
        boxes[i] = samples.tighten(boxes[i], visible, window)
        if _is_a_pixel_long(boxes[i]):
            kept.append(i)
            bitmaps[i] = masks.from_bitmap(visible, window.top + top, window.left + left)
            covered[part] |= visible
            _copy(other.image[part], visible, image[part])
    shifted = other._replace(boxes=boxes + np.array([left, top, left, top]), masks=bitmaps)
    return samples.select(shifted, sorted(kept))


def _hide(sample: Sample, covered: Bool[np.ndarray, "h w"]) -> Sample:
    """Cuts the covered pixels off all objects, and removes those of which too little is left.

    The mask of an object near covered pixels becomes a bitmap, which no pasted mask overlaps.
    """
    boxes, remaining, kept = sample.boxes.copy(), list(sample.masks), []
    for i, mask in enumerate(sample.masks):
        reach = 0 if mask is None else math.ceil(max(mask.rows.scale, mask.columns.scale))
        near = Window(*masks.around(boxes[i], covered.shape, reach))  # One annotated pixel more.
        if not covered[_part(near)].any():
            kept.append(i)
            continue
        window = Window(*masks.around(boxes[i], covered.shape))
        drawn = _filled(boxes[i], window) if mask is None else masks.to_window(mask, *window)
        visible = drawn & ~covered[_part(window)]
        if drawn.any():
            boxes[i] = samples.tighten(boxes[i], visible, window)
            remaining[i] = mask and masks.from_bitmap(visible, window.top, window.left)
        if np.array_equal(drawn, visible) or _is_a_pixel_long(boxes[i]):
            kept.append(i)
    num_removed = sample.num_removed + len(boxes) - len(kept)
    cut = sample._replace(boxes=boxes, masks=remaining, num_removed=num_removed)
    return samples.select(cut, kept)


def _part(window: Window) -> tuple[slice, slice]:
    top, left, height, width = window
    return slice(top, top + height), slice(left, left + width)


def _is_a_pixel_long(box: Float[np.ndarray, "4"]) -> bool:
    return bool((box[2:] - box[:2] >= 1).all())


def _filled(box: Float[np.ndarray, "4"], window: Window) -> Bool[np.ndarray, "h w"]:
    """Draws the pixels of a box, which stands for the mask of an object without one."""
    rows, columns = _part(window)
    y, x = np.ogrid[rows, columns]
    return (x + 1 > box[0]) & (x < box[2]) & (y + 1 > box[1]) & (y < box[3])


def _copy(source: Pixels, where: Bool[np.ndarray, "h w"], target: Pixels) -> None:
    """Copies the pixels that are chosen into another image of the same size, in place."""
    if cv2 is not None:
        cv2.copyTo(source, where.view(np.uint8), target)
    else:
        np.copyto(target, source, where=where[..., None])
