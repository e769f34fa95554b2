"""Sizes of images in batches, and resizing. All sizes are ``(height, width)`` in pixels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from PIL import Image

from maskrcnn_jax.ops import rounding

try:
    import cv2
except ImportError:  # OpenCV is optional: it only makes resizing faster.
    cv2 = None

Size = tuple[int, int]

_ROWS_PER_BLOCK = 64  # Output rows computed at once: their intermediates fit into the cache.
_CHANNELS_OF_OPENCV = 4  # Some of its functions take no more.


def resized_size(
    size: Sequence[int] | Int[np.ndarray, " 2"],
    short_side: int,
    max_long_side: int,
    rule: str = "torchvision",
) -> Size:
    """Returns the size after an image is resized to a short side of ``short_side``.

    The image becomes smaller if its long side would exceed ``max_long_side``. Scales are float64.
    The rules differ by a pixel:

    * "torchvision" truncates, so that a short side of 97 becomes 799 instead of 800.
    * "mmdetection" rounds, halves up.
    * "detectron2" makes the short side exact, then makes both sides smaller if the long one
      exceeds its maximum, and rounds, halves up.

    Each side is at least one pixel.

    Args:
        size: Height and width before.
        short_side: In pixels.
        max_long_side: In pixels.
        rule: One of the three.
    """
    height, width = int(size[0]), int(size[1])
    if rule == "detectron2":
        sides = _shortest_edge(height, width, short_side, max_long_side)
    else:
        scale = min(short_side / min(height, width), max_long_side / max(height, width))
        sides = height * scale, width * scale
    half = 0 if rule == "torchvision" else 0.5
    return max(int(sides[0] + half), 1), max(int(sides[1] + half), 1)


def _shortest_edge(
    height: int, width: int, short_side: int, max_long_side: int
) -> tuple[float, float]:
    """Detectron2's sides before rounding; other orders of the operations round otherwise."""
    scale = short_side / min(height, width)
    short = float(short_side)
    sides = (short, scale * width) if height < width else (scale * height, short)
    if max(sides) > max_long_side:
        scale = max_long_side / max(sides)
        sides = sides[0] * scale, sides[1] * scale
    return sides


def resize(
    image: UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"],
    size: Size,
    how: str = "bilinear",
) -> Float32[np.ndarray, "{size[0]} {size[1]} c"]:
    """Resizes an image to ``size`` (height, width), as float32.

    uint8 images are divided by 255. ``how`` is one of:

    * "bilinear": half-pixel centres, without antialiasing, equal to
      `torch.nn.functional.interpolate`, as torchvision does.
    * "pillow": Pillow's bilinear filter, which antialiases and rounds to uint8, as Detectron2 does.
    * "opencv": OpenCV's bilinear filter, which rounds to uint8, as MMDetection does. Without
      OpenCV the result differs by at most one level.

    Floating-point images have no levels to round to: they are always resized by "bilinear".
    """
    if how != "bilinear" and image.dtype == np.uint8:
        return resize_rounded(image, size, how) * np.float32(1 / 255)
    above, below, down = _bilinear(image.shape[0], size[0])
    left, right, across = _bilinear(image.shape[1], size[1])
    scale = np.float32(1 / 255) if image.dtype == np.uint8 else np.float32(1)
    down, across = down[:, None, None], across[:, None]
    out = np.empty((*size, image.shape[2]), np.float32)
    for start in range(0, size[0], _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        rows = image[above[block]] * (scale * (1 - down[block]))
        rows += image[below[block]] * (scale * down[block])
        result = np.take(rows, left, axis=1)
        result *= 1 - across
        rows = np.take(rows, right, axis=1)
        rows *= across
        result += rows
        if image.dtype == np.uint8:  # The weights may sum to one ulp more than 1.
            np.minimum(result, 1, out=result)
        out[block] = result
    return out


def _bilinear(
    num_inputs: int, num_outputs: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Returns the indices of both neighbours of each output pixel, and the second one's weight."""
    ratio = np.float32(num_inputs / num_outputs)
    # Round once after the multiplication and subtraction, like PyTorch's fused multiply-add.
    source = ((np.arange(num_outputs) + 0.5) * np.float64(ratio) - 0.5).astype(np.float32)
    source = np.maximum(source, 0)
    first = np.minimum(source.astype(np.int64), num_inputs - 1)
    second = np.minimum(first + 1, num_inputs - 1)
    return first, second, source - first.astype(np.float32)


def resize_rounded(
    image: UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"],
    size: Size,
    how: str = "bilinear",
) -> UInt8[np.ndarray, "{size[0]} {size[1]} c"] | Float32[np.ndarray, "{size[0]} {size[1]} c"]:
    """Resizes an image for training as `resize` does, but rounds images of uint8 to uint8.

    For "bilinear" the result differs by at most one level. OpenCV, if installed, makes this faster.
    """
    height, width, num_channels = image.shape
    image = np.ascontiguousarray(image)
    if (height, width) == tuple(size):
        return image
    if image.dtype != np.uint8:
        return resize(image, size)
    if how == "pillow":
        return _resize_by_pillow(image, size)
    if cv2 is not None:
        resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return resized.reshape(*size, num_channels)  # OpenCV drops the axis of a single channel.
    # Pillow uses the same rule when it enlarges; when it shrinks, it antialiases.
    if num_channels == 3 and size[0] >= height and size[1] >= width:
        resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(resized)
    return np.rint(resize(image, size) * np.float32(255)).astype(np.uint8)


def _resize_by_pillow(
    image: UInt8[np.ndarray, "h w c"], size: Size
) -> UInt8[np.ndarray, "{size[0]} {size[1]} c"]:
    channels = [image] if image.shape[2] == 3 else np.moveaxis(image, 2, 0)
    resized = [
        np.asarray(Image.fromarray(x).resize((size[1], size[0]), Image.Resampling.BILINEAR))
        for x in channels
    ]
    return resized[0] if image.shape[2] == 3 else np.stack(resized, axis=2)


def mirror(image: Shaped[np.ndarray, "h w c"]) -> Shaped[np.ndarray, "h w c"]:
    """Mirrors an image left to right and returns a contiguous copy."""
    if cv2 is not None and image.shape[2] <= _CHANNELS_OF_OPENCV:
        return cv2.flip(image, 1).reshape(image.shape)
    mirrored = np.empty_like(image)
    # NumPy reverses single channels seven times faster than all channels at once.
    for channel in range(image.shape[2]):
        mirrored[:, :, channel] = image[:, ::-1, channel]
    return mirrored


def transpose(image: Shaped[np.ndarray, "h w c"]) -> Shaped[np.ndarray, "w h c"]:
    """Swaps rows and columns of an image and returns a contiguous copy."""
    height, width, num_channels = image.shape
    if cv2 is not None and num_channels <= _CHANNELS_OF_OPENCV:
        return cv2.transpose(image).reshape(width, height, num_channels)
    return np.ascontiguousarray(image.transpose(1, 0, 2))


def canvas_of(size: Sequence[int] | Int[np.ndarray, " 2"], padding: int) -> Size:
    """The height and width of a padded image that the network sees; see `DataConfig.padding`."""
    return ceil32(size) if padding == 32 else (int(size[0]), int(size[1]))


def ceil32(size: Sequence[int] | Int[np.ndarray, " 2"]) -> Size:
    """Rounds height and width up to multiples of 32, the stride of the last backbone stage."""
    return rounding.ceil32(int(size[0])), rounding.ceil32(int(size[1]))


def bucket_for(
    size: Sequence[int] | Int[np.ndarray, " 2"], buckets: Sequence[Sequence[int]]
) -> Size:
    """Returns the bucket of smallest area that holds an image; the first one among equal areas.

    Args:
        size: Height and width of the image.
        buckets: Heights and widths.

    Raises:
        ValueError: No bucket holds the image. The message names the size and the buckets.
    """
    height, width = int(size[0]), int(size[1])
    holding = [(int(h), int(w)) for h, w in buckets if h >= height and w >= width]
    if not holding:
        raise ValueError(
            f"no bucket holds an image of {height}x{width}; "
            f"the buckets are {[tuple(bucket) for bucket in buckets]}"
        )
    return min(holding, key=lambda bucket: bucket[0] * bucket[1])


def largest_fit(
    size: Sequence[int] | Int[np.ndarray, " 2"], buckets: Sequence[Sequence[int]]
) -> tuple[Size, Size]:
    """Returns the largest size of the same aspect ratio that fits a bucket, and that bucket.

    Among buckets with equal fits the one of smallest area is chosen.
    """
    height, width = int(size[0]), int(size[1])
    fits = []  # (scale, -area, bucket)
    for bucket_height, bucket_width in buckets:
        bucket = (int(bucket_height), int(bucket_width))
        scale = min(bucket[0] / height, bucket[1] / width)
        fits.append((scale, -bucket[0] * bucket[1], bucket))
    scale, _, bucket = max(fits)
    return (max(int(height * scale), 1), max(int(width * scale), 1)), bucket
