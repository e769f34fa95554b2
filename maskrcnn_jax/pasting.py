"""Maps detections to the original image, on the host: scales boxes and pastes masks.

A patch is the part of a pasted mask inside its box and the image; its offset is the (y, x) of its
first pixel. The mask is zero outside the patch, so hundreds of detections do not need hundreds of
full-size masks.
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Num
from pycocotools import mask as rle_codec

from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.structures import Detections

MaskForm = Literal["pasted", "cropped", "rle"]
ONE_THREAD = 2**18  # OpenBLAS uses one thread for a product of at most this many multiplications.


class ImageDetections(NamedTuple):
    """The detections of one image, in its original pixels, by descending score; no padding."""

    boxes: Float32[np.ndarray, "n 4"]  # x0, y0, x1, y1.
    labels: Int[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    # For each detection probabilities (y, x) and their offset; None without a mask head.
    patches: list[tuple[np.ndarray, tuple[int, int]]] | None


def to_original(
    detections: Detections,
    size: tuple[int, int],
    original_size: tuple[int, int],
    config: DetectionConfig | None = None,
) -> ImageDetections:
    """Maps the detections of one image from resized to original pixels.

    Each axis has its own factor, the quotient of the two sizes.

    Args:
        detections: NumPy arrays without the axis b, in pixels of the resized image.
        size: Height and width of the resized image.
        original_size: Height and width of the original image.
        config: Gives ``clip_to_original`` and ``paste``; the default is torchvision's rule.
    """
    config = config or DetectionConfig()
    scaled, kept = scale_boxes(np.asarray(detections.boxes), size, original_size, config)
    valid = kept & np.asarray(detections.valid)
    boxes, patches = scaled[valid], None
    if detections.masks is not None:
        paste_one = paste_in_box if config.paste == "expanded" else paste_centres
        pairs = zip(detections.masks[valid], boxes, strict=True)
        patches = [paste_one(mask, box, original_size) for mask, box in pairs]
    labels = np.asarray(detections.classes)[valid].astype(np.int64)
    return ImageDetections(boxes, labels, np.asarray(detections.scores)[valid], patches)


def scale_boxes(
    boxes: Float32[np.ndarray, "n 4"],
    size: tuple[int, int],
    original_size: tuple[int, int],
    config: DetectionConfig,
) -> tuple[Float32[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """Scales boxes from resized to original pixels; arguments as in `to_original`.

    Returns:
        The boxes, and which of them are kept: those with an area if the config clips boxes to the
        original image, otherwise all.
    """
    factor = np.array(original_size, np.float32) / np.array(size, np.float32)
    scaled = boxes * factor[[1, 0, 1, 0]]
    if not config.clip_to_original:
        return scaled, np.ones(len(boxes), bool)
    height, width = original_size
    clipped: np.ndarray = np.clip(scaled, 0, np.array([width, height] * 2, np.float32))
    return clipped, np.all(clipped[:, 2:] > clipped[:, :2], axis=1)


def paste_in_box(
    mask: Num[np.ndarray, "m m"], box: Num[np.ndarray, " 4"], size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "y x"], tuple[int, int]]:
    """Resamples a mask to the pixels of its box, like torchvision's `paste_masks_in_image`.

    The mask is padded by one zero cell on each side, the box grows by the same factor about its
    centre, and its corners are truncated to whole pixels. The interpolation is bilinear with
    half-pixel centres.

    Args:
        mask: Probabilities on a grid that covers the box.
        box: x0, y0, x1, y1 in pixels of the image.
        size: Height and width of the image.

    Returns:
        The patch and its offset (y, x). The patch is empty if the box lies outside the image.
    """
    num_cells = len(mask) + 2
    padded = np.zeros((num_cells, num_cells), np.float32)
    padded[1:-1, 1:-1] = mask
    (x0, y0), (x1, y1) = _expand(box, num_cells / len(mask))
    rows, top = _axis_weights(y0, y1, size[0], num_cells)
    columns, left = _axis_weights(x0, x1, size[1], num_cells)
    return _multiply(rows, _multiply(padded, columns.T)), (top, left)


def paste_centres(
    mask: Num[np.ndarray, "m m"], box: Num[np.ndarray, " 4"], size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "y x"], tuple[int, int]]:
    """Resamples a mask at the centres of pixels, like Detectron2's `paste_masks_in_image`.

    Cells have the value of the mask at their centres, and zeros surround them. Detectron2 and
    MMDetection count a probability of exactly 0.5 as inside. Here it becomes the next larger
    number, so that all readers may compare with ``> 0.5``.

    Args, returns: As for `paste_in_box`. The patch ends at most one pixel beyond the box, where
    probabilities stay below 0.5.
    """
    x0, y0, x1, y1 = np.asarray(box, np.float32).tolist()
    if not (x1 > x0 and y1 > y0):
        return np.zeros((0, 0), np.float32), (0, 0)
    rows, top = _centre_weights(y0, y1, size[0], len(mask))
    columns, left = _centre_weights(x0, x1, size[1], len(mask))
    patch = _multiply(rows, _multiply(mask.astype(np.float32), columns.T))
    return np.where(patch == 0.5, np.nextafter(np.float32(0.5), np.float32(1)), patch), (top, left)


def _centre_weights(
    start: float, end: float, length: int, num_cells: int
) -> tuple[Float32[np.ndarray, "n cells"], int]:
    """As `_axis_weights`, for a box from ``start`` to ``end`` that is not rounded."""
    first = max(math.floor(start) - 1, 0)
    stop = max(min(math.ceil(end) + 1, length), first)
    centres = np.arange(first, stop, dtype=np.float32) + np.float32(0.5)
    position = (centres - np.float32(start)) / np.float32(end - start) * np.float32(num_cells)
    distance = np.abs(position.reshape(-1, 1) - np.arange(num_cells, dtype=np.float32) - 0.5)
    return np.maximum(1 - distance, 0).astype(np.float32), first


def _expand(box: Num[np.ndarray, " 4"], scale: float) -> tuple[list[int], list[int]]:
    """Scales a box about its centre and truncates its corners (x, y) toward zero."""
    low, high = np.asarray(box, np.float32).reshape(2, 2)
    centre, half = (high + low) * 0.5, (high - low) * (0.5 * scale)
    return (centre - half).astype(int).tolist(), (centre + half).astype(int).tolist()


def _multiply(
    a: Float32[np.ndarray, "m k"], b: Float32[np.ndarray, "k n"]
) -> Float32[np.ndarray, "m n"]:
    """Computes ``a @ b`` in strips that OpenBLAS multiplies in one thread.

    Starting more threads would take longer than the product.
    """
    product = np.empty((len(a), b.shape[1]), np.float32)
    height = max(ONE_THREAD // max(b.size, 1), 1)
    for top in range(0, len(a), height):
        np.matmul(a[top : top + height], b, out=product[top : top + height])
    return product


def _axis_weights(
    start: int, end: int, length: int, num_cells: int
) -> tuple[Float32[np.ndarray, "n cells"], int]:
    """Returns the bilinear weights of the cells for the pixels of one axis of a box.

    Args:
        start: First pixel of the box, possibly outside the image.
        end: Last pixel of the box, inclusive.
        length: Number of pixels of the image.
        num_cells: Number of cells of the mask.

    Returns:
        The weights of the pixels inside the image, and the first of these pixels.
    """
    first = max(start, 0)
    stop = max(min(end + 1, length), first)
    weights = _interpolation(max(end - start + 1, 1), num_cells)
    return weights[first - start : stop - start], first


@functools.lru_cache(maxsize=256)  # Small objects have few different sizes.
def _interpolation(num_pixels: int, num_cells: int) -> Float32[np.ndarray, "pixels cells"]:
    """Returns bilinear weights from cells to pixels; the centre of pixel i is at i + 0.5."""
    pixels = np.arange(num_pixels, dtype=np.float32)
    # Clamp positions before the first and after the last cell centre to that cell.
    position = np.maximum((pixels + 0.5) * (num_cells / num_pixels) - 0.5, 0)
    lower = np.minimum(position.astype(int), num_cells - 1)
    upper = np.minimum(lower + 1, num_cells - 1)
    fraction = position - lower.astype(np.float32)
    weights = np.zeros((num_pixels, num_cells), np.float32)
    weights[np.arange(num_pixels), lower] = 1 - fraction
    weights[np.arange(num_pixels), upper] += fraction
    return weights


def paste(
    masks: Num[np.ndarray, "n m m"],
    boxes: Num[np.ndarray, "n 4"],
    size: tuple[int, int],
    rule: str = "expanded",
) -> Float32[np.ndarray, "n h w"]:
    """Pastes every mask into a full-size mask.

    Args:
        masks: Probabilities on grids that cover the boxes.
        boxes: x0, y0, x1, y1 in pixels of the image.
        size: Height and width of the image.
        rule: As `DetectionConfig.paste`; the default is torchvision's.

    Returns:
        Probabilities, zero outside the boxes.
    """
    paste_one = paste_in_box if rule == "expanded" else paste_centres
    pasted = np.zeros((len(masks), *size), np.float32)
    for full, mask, box in zip(pasted, masks, boxes, strict=True):
        patch, (y, x) = paste_one(mask, box, size)
        full[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return pasted


def encode(
    patch: Float32[np.ndarray, "y x"],
    offset: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> dict:
    """Encodes the pixels of a patch above the threshold as COCO's compressed run lengths.

    The result equals the encoding of the full-size mask, but only the columns of the patch are
    read.

    Args:
        patch: Probabilities inside the box.
        offset: (y, x) of the first pixel of the patch.
        size: Height and width of the image.
        threshold: Pixels above this probability are inside.

    Returns:
        A dictionary with "size" and "counts"; the counts are a string, ready for JSON.
    """
    (top, left), (height, width) = offset, size
    # COCO's runs are column-major.
    columns = np.zeros((patch.shape[1], height), bool)
    columns[:, top : top + patch.shape[0]] = patch.T > threshold
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    counts = np.diff(edges + left * height, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:  # A mask that reaches the last pixel ends with a run.
        counts.pop()
    rle = rle_codec.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def in_form(
    patches: list[tuple[np.ndarray, tuple[int, int]]], size: tuple[int, int], form: MaskForm
) -> Any:
    """Converts the patches of one image to one of the forms of `Detector.__call__`.

    Args:
        patches: As in `ImageDetections`.
        size: Height and width of the image.
        form: The form.

    Raises:
        MemoryError: Memory does not suffice for pasted masks.
    """
    if form == "cropped":
        return patches
    if form == "rle":
        return [encode(patch, offset, size) for patch, offset in patches]
    try:
        pasted = np.zeros((len(patches), 1, *size), np.float32)
    except MemoryError as error:
        gigabytes = len(patches) * size[0] * size[1] * 4 / 1e9
        raise MemoryError(
            f"{len(patches)} masks of {size[0]}x{size[1]} take {gigabytes:.0f} GB: "
            'ask for masks="rle" or fewer'
        ) from error
    for mask, (patch, (y, x)) in zip(pasted, patches, strict=True):
        mask[0, y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return pasted
