"""From what the model sees to pixels of the original image: boxes scaled, masks pasted inside their box, on the host.

A patch is the part of a pasted mask that lies inside both its box and the image; its offset is the (y, x) of its first
pixel. Everything outside a patch is zero, so that hundreds of instances never need hundreds of full images.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Num
from pycocotools import mask as rle_codec

from maskrcnn_jax.structures import Detections

ONE_THREAD = 2**18  # Multiplications of a product for which OpenBLAS starts no other thread.


class ImageDetections(NamedTuple):
    """What was found in one image, in its original pixels, by descending score; no padding."""

    boxes: Float32[np.ndarray, "n 4"]  # x0, y0, x1, y1.
    labels: Int[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    patches: list[tuple[np.ndarray, tuple[int, int]]]  # Probabilities, and the (y, x) where they start.


def to_original(detections: Detections, size: tuple[int, int], original_size: tuple[int, int]) -> ImageDetections:
    """Brings one image's detections (NumPy arrays) from resized to original pixels, sizes being (height, width).

    Each axis has its own factor, the quotient of the two whole-numbered sizes, as in torchvision.
    """
    valid = np.asarray(detections.valid)
    factor = np.array(original_size, np.float32) / np.array(size, np.float32)
    boxes = detections.boxes[valid] * factor[[1, 0, 1, 0]]
    patches = [paste_in_box(mask, box, original_size) for mask, box in zip(detections.masks[valid], boxes, strict=True)]
    labels = detections.classes[valid].astype(np.int64)
    return ImageDetections(boxes, labels, detections.scores[valid], patches)


def paste_in_box(
    mask: Num[np.ndarray, "m m"], box: Num[np.ndarray, " 4"], size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "y x"], tuple[int, int]]:
    """Resamples a mask to the pixels of its box, as torchvision's `paste_masks_in_image` does.

    The mask gets a border of one zero cell, the box grows with it about its centre and is truncated to whole pixels,
    and the result is bilinear with half-pixel centres.

    Args:
      mask: probabilities on a grid that covers the box.
      box: x0, y0, x1, y1 in pixels of the image.
      size: height and width of the image.

    Returns:
      The patch and its offset (y, x); the patch is empty where the box lies outside the image.
    """
    num_cells = len(mask) + 2
    padded = np.zeros((num_cells, num_cells), np.float32)
    padded[1:-1, 1:-1] = mask
    (x0, y0), (x1, y1) = _expand(box, num_cells / len(mask))
    rows, top = _axis_weights(y0, y1, size[0], num_cells)
    columns, left = _axis_weights(x0, x1, size[1], num_cells)
    return _multiply(rows, _multiply(padded, columns.T)), (top, left)


def _expand(box: Num[np.ndarray, " 4"], scale: float) -> tuple[list[int], list[int]]:
    """Grows a box about its centre and truncates its corners, (x, y) each, toward zero."""
    low, high = np.asarray(box, np.float32).reshape(2, 2)
    centre, half = (high + low) * 0.5, (high - low) * (0.5 * scale)
    return (centre - half).astype(int).tolist(), (centre + half).astype(int).tolist()


def _multiply(a: Float32[np.ndarray, "m k"], b: Float32[np.ndarray, "k n"]) -> Float32[np.ndarray, "m n"]:
    """``a @ b`` in strips so small that OpenBLAS keeps to one thread: to start others takes longer than the product."""
    product = np.empty((len(a), b.shape[1]), np.float32)
    height = max(ONE_THREAD // max(b.size, 1), 1)
    for top in range(0, len(a), height):
        np.matmul(a[top : top + height], b, out=product[top : top + height])
    return product


def _axis_weights(start: int, end: int, length: int, num_cells: int) -> tuple[Float32[np.ndarray, "n cells"], int]:
    """Bilinear weights of the cells for those pixels start..end, both included, that the image has; the first one."""
    first = max(start, 0)
    stop = max(min(end + 1, length), first)
    return _interpolation(max(end - start + 1, 1), num_cells)[first - start : stop - start], first


@functools.lru_cache(maxsize=256)  # Small objects share few sizes.
def _interpolation(num_pixels: int, num_cells: int) -> Float32[np.ndarray, "pixels cells"]:
    """Weights that resample cells to pixels, bilinear, half-pixel: the centre of pixel i is at i + 0.5."""
    pixels = np.arange(num_pixels, dtype=np.float32)
    # Before the centre of the first cell, and beyond that of the last, the cell itself continues.
    position = np.maximum((pixels + 0.5) * (num_cells / num_pixels) - 0.5, 0)
    lower = np.minimum(position.astype(int), num_cells - 1)
    upper = np.minimum(lower + 1, num_cells - 1)
    fraction = position - lower.astype(np.float32)
    weights = np.zeros((num_pixels, num_cells), np.float32)
    weights[np.arange(num_pixels), lower] = 1 - fraction
    weights[np.arange(num_pixels), upper] += fraction
    return weights


def paste(
    masks: Num[np.ndarray, "n m m"], boxes: Num[np.ndarray, "n 4"], size: tuple[int, int]
) -> Float32[np.ndarray, "n h w"]:
    """Pastes every mask into its own full image, as torchvision returns them: probabilities, zero outside the box."""
    images = np.zeros((len(masks), *size), np.float32)
    for image, mask, box in zip(images, masks, boxes, strict=True):
        patch, (y, x) = paste_in_box(mask, box, size)
        image[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return images


def encode(
    patch: Float32[np.ndarray, "y x"], offset: tuple[int, int], size: tuple[int, int], threshold: float = 0.5
) -> dict:
    """Compressed COCO run lengths of the pixels above the threshold; `counts` is text, ready for JSON.

    Equal to encoding the full image, but only the columns of the patch are looked at.
    """
    (top, left), (height, width) = offset, size
    # Runs go down the columns, so the columns are laid out one after the other.
    columns = np.zeros((patch.shape[1], height), bool)
    columns[:, top : top + patch.shape[0]] = patch.T > threshold
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    counts = np.diff(edges + left * height, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:  # A mask that reaches the last pixel ends with its own run.
        counts.pop()
    rle = rle_codec.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
