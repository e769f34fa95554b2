"""Numbers that describe a data set: channels, sizes, objects, anchors, and what looks wrong."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from maskrcnn_jax import images, resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import checks
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.dataset import Dataset

_NUM_THREADS = 16
_NUM_LOOKED_AT = 8  # Images whose headers say what the others have.
_FULL = {"uint8": 255, "uint16": 65535}  # White; floating-point pixels stay.
_COPIES = 0.95  # Overlap of two boxes that may be one object, labelled twice.
_WHOLE = 0.95  # Share of the image that few objects cover.
_LONG = 20  # Ratio of the sides of few objects.
_SMALL = 2  # Pixels after resizing, of the short side of a box.


class Channels(NamedTuple):
    """Mean and standard deviation of each channel over all pixels.

    White is 1 for whole numbers. Floating-point pixels count as they are.
    """

    mean: Float[np.ndarray, " c"]
    std: Float[np.ndarray, " c"]
    num_images: int
    is_deep: bool  # Whether an image has pixels of more than 8 bits.


def kind(dataset: CocoDataset) -> tuple[int, str]:
    """The number of channels of some images, and the ``image_dtype`` that keeps all their bits.

    If they differ, the largest number counts: grey images among coloured ones become RGB. Alpha
    does not count.
    """
    found = []
    for index in range(len(dataset)):
        try:
            found.append(images.header(dataset.path(index)))
        except OSError:
            continue
        if len(found) == _NUM_LOOKED_AT:
            break
    is_deep = any(x.dtype != "uint8" for x in found)
    counts = [x.num_channels - x.has_alpha for x in found]
    return max(counts, default=3), "float32" if is_deep else "uint8"


def channels(
    dataset: Dataset,
    indices: Sequence[int],
    advance: Callable[[int], object] = lambda count: None,
) -> tuple[Channels, dict[int, str]]:
    """Reads images, and computes mean and standard deviation of their channels.

    Every pixel counts once, so large images count more.

    Args:
        dataset: The images.
        indices: Those to read.
        advance: Called with 1 after each image.

    Returns:
        The numbers, and the reason by image id for each image that cannot be read.

    Raises:
        ValueError: No image can be read, or one has another number of channels than the first.
    """

    def measure(position: int) -> tuple[int, np.ndarray, bool] | str:
        try:
            image = dataset[indices[position]].image
        except (OSError, ValueError, MemoryError) as error:
            return str(error)
        full, is_deep = _FULL.get(image.dtype.name, 1), image.dtype != np.uint8
        squares = np.einsum("hwc,hwc->c", image, image, dtype=np.float64)
        sums = image.sum(axis=(0, 1), dtype=np.float64)
        found = np.stack([sums / full, squares / full**2])
        return image.shape[0] * image.shape[1], found, is_deep

    num_pixels, total, is_deep, bad = 0, None, False, {}
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for position, found in enumerate(checks.mapped(pool, measure, len(indices))):
            image_id = int(dataset.image_ids[indices[position]])
            advance(1)
            if isinstance(found, str):
                bad[image_id] = found
                continue
            count, sums, own_is_deep = found
            is_deep |= own_is_deep
            total = np.zeros_like(sums) if total is None else total
            if sums.shape != total.shape:
                told = f"{sums.shape[1]} channels, and others {total.shape[1]}"
                raise ValueError(f"image id {image_id} has {told}")
            num_pixels, total = num_pixels + count, total + sums
    if total is None:
        raise ValueError(f"no image can be read: {checks.summary(bad)}")
    mean, square = total / num_pixels
    std = np.sqrt(np.maximum(square - mean**2, 0))  # Rounding may make it negative.
    return Channels(mean, std, len(indices) - len(bad), is_deep), bad


class Objects(NamedTuple):
    """The objects of a data set, without crowds and boxes without extent."""

    ids: Int[np.ndarray, " n"]
    image: Int[np.ndarray, " n"]  # Position of the image in the list of images.
    category: Int[np.ndarray, " n"]  # The id.
    boxes: Float[np.ndarray, "n 4"]  # x0 y0 x1 y1 in pixels, clamped to the image.
    sizes: Int[np.ndarray, "m 2"]  # Height and width of all images, in pixels.


def objects(annotations: dict[str, Any]) -> Objects:
    """Collects the objects of the content of a file that `CocoDataset` accepts."""
    position = {entry["id"]: index for index, entry in enumerate(annotations["images"])}
    sizes = [(entry["height"], entry["width"]) for entry in annotations["images"]]
    found = [entry for entry in annotations["annotations"] if not entry.get("iscrowd")]
    boxes = np.array([entry["bbox"] for entry in found], np.float64).reshape(-1, 4)
    finite = np.isfinite(boxes).all(axis=1)
    boxes = np.where(finite[:, None], boxes, 0)
    with np.errstate(over="ignore"):  # The image is the limit anyway.
        boxes[:, 2:] += boxes[:, :2]
    image = np.array([position[entry["image_id"]] for entry in found], np.int64)
    sizes = np.array(sizes, np.int64).reshape(-1, 2)
    limits = sizes[image][:, [1, 0, 1, 0]]
    boxes = np.clip(boxes, 0, limits)
    has_extent = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    ids = np.array([entry["id"] for entry in found], np.int64)
    category = np.array([entry["category_id"] for entry in found], np.int64)
    return Objects(
        ids[has_extent], image[has_extent], category[has_extent], boxes[has_extent], sizes
    )


def resized_sides(found: Objects, config: DataConfig) -> Float[np.ndarray, "n 2"]:
    """Height and width of every box in pixels, after images are resized as for evaluation."""
    rule = config.test_short_side, config.test_max_long_side, config.size_rule
    new = [resizing.resized_size(size, *rule) for size in found.sizes]
    scale = np.array(new, np.float64).reshape(-1, 2) / found.sizes
    return (found.boxes[:, [3, 2]] - found.boxes[:, [1, 0]]) * scale[found.image]


class AnchorFit(NamedTuple):
    """The best overlap of every object with an anchor that has the same centre."""

    overlap: Float[np.ndarray, " n"]  # Intersection over union.
    anchor: Int[np.ndarray, " n"]  # Position of the first best anchor.


def anchor_fit(sides: Float[np.ndarray, "n 2"], anchors: Float[np.ndarray, "a 2"]) -> AnchorFit:
    """Compares boxes with anchors, both by height and width in pixels of the resized image."""
    overlaps = np.zeros((len(sides), len(anchors)))
    for position, anchor in enumerate(anchors):
        shared = np.minimum(sides, anchor).prod(axis=1)
        overlaps[:, position] = shared / (sides.prod(axis=1) + anchor.prod() - shared)
    return AnchorFit(overlaps.max(axis=1), overlaps.argmax(axis=1))


def suspicious(found: Objects, sides: Float[np.ndarray, "n 2"]) -> dict[str, list[int]]:
    """The ids of annotations that are more often mistakes than objects, by what is odd.

    Args:
        found: The objects.
        sides: Their sides after resizing, see `resized_sides`.
    """
    extent = found.boxes[:, 2:] - found.boxes[:, :2]
    share = extent.prod(axis=1) / found.sizes[found.image].prod(axis=1)
    ratio = extent.max(axis=1) / extent.min(axis=1)
    kinds = {
        f"a side below {_SMALL} pixels after resizing": sides.min(axis=1) < _SMALL,
        f"a box over more than {_WHOLE:.0%} of the image": share > _WHOLE,
        f"a box more than {_LONG} times as long as wide": ratio > _LONG,
        f"a box that another of the category covers to {_COPIES:.0%}": _copies(found),
    }
    return {kind: found.ids[is_odd].tolist() for kind, is_odd in kinds.items()}


def _copies(found: Objects) -> Bool[np.ndarray, " n"]:
    """Which objects overlap with an earlier one of their image and category almost completely."""
    is_copy = np.zeros(len(found.ids), bool)
    order = np.lexsort((found.category, found.image))
    keys = np.stack([found.image, found.category], axis=1)[order]
    starts = np.flatnonzero((np.diff(keys, axis=0) != 0).any(axis=1)) + 1
    for own in np.split(order, starts):
        boxes, areas = found.boxes[own], (found.boxes[own, 2:] - found.boxes[own, :2]).prod(axis=1)
        for i in range(1, len(own)):
            low = np.maximum(boxes[i, :2], boxes[:i, :2])
            high = np.minimum(boxes[i, 2:], boxes[:i, 2:])
            shared = np.maximum(high - low, 0).prod(axis=1)
            is_copy[own[i]] = (shared >= _COPIES * (areas[i] + areas[:i] - shared)).any()
    return is_copy
