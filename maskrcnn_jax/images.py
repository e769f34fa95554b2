"""Images on the host: reads them as RGB and resizes them by torchvision's rule.

All sizes are ``(height, width)`` in pixels.
"""

import io
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from PIL import Image, ImageOps

from maskrcnn_jax.ops import rounding

try:
    import cv2
except ImportError:  # OpenCV is optional: it only makes decoding and resizing faster.
    cv2 = None

Size = tuple[int, int]
# An image as users give it: an array of any library, see `as_rgb`; a path; or a Pillow image.
AnyImage = Any

_ORIENTATION = 0x0112  # The EXIF tag of the orientation.
_END_OF_JPEG = b"\xff\xd9"
_ROWS_PER_BLOCK = 64  # Output rows computed at once: their intermediates fit into the cache.


def use_one_thread() -> None:
    """Limits OpenCV, if installed, to the calling thread, in the whole process and permanently.

    Call this in a process that prepares images in several threads.
    """
    if cv2 is not None:
        cv2.setNumThreads(1)


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB and applies its EXIF orientation.

    Grey and palette images become RGB. Alpha is dropped without blending. 16-bit grey values are
    divided by 257; 16-bit colour is reduced to its high byte by Pillow, which differs by at most
    one level.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be read as an image. The message names the file.
    """
    try:
        with open(path, "rb") as file:
            return decode_image(file.read())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"cannot read the image {os.fspath(path)}: {error}") from error


def decode_image(content: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the content of an image file, as `read_image` does.

    Raises OSError if the content is broken or not an image.
    """
    try:
        with _open(content) as opened:
            pixels = _decode_jpeg(content, opened) if cv2 is not None else None
            return _to_rgb(ImageOps.exif_transpose(opened)) if pixels is None else pixels
    except MemoryError as error:
        raise OSError(
            "there is not enough memory for its pixels: cut it into parts or make it smaller"
        ) from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files.
        raise OSError(str(error)) from error


def _open(content: bytes) -> Image.Image:
    """Opens an image as `Image.open` does, but without Pillow's warning about large images.

    The warning could only be silenced for the whole process. Like Pillow, this refuses images of
    more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    tried: set[str] = set()
    for load_formats in (Image.preinit, Image.init):  # Try the common formats first, then all.
        load_formats()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            opened = _open_as(name, content)
            if opened is not None:
                _check_size(opened.width * opened.height)
                return opened
    raise OSError("it is in no format that Pillow knows")


def _open_as(name: str, content: bytes) -> Image.Image | None:
    """Opens an image in one of Pillow's formats. Returns None for a file of another format."""
    factory, accepts = Image.OPEN[name]
    try:
        answer = accepts is None or accepts(content[:16])
        if not answer or isinstance(answer, str):  # A string names a missing library.
            return None
        return factory(io.BytesIO(content), "")
    except (SyntaxError, IndexError, TypeError, struct.error):  # Raised for another format.
        return None


def _check_size(num_pixels: int) -> None:
    if Image.MAX_IMAGE_PIXELS is None or num_pixels <= 2 * Image.MAX_IMAGE_PIXELS:
        return
    raise OSError(
        f"Image size ({num_pixels} pixels) exceeds limit of {2 * Image.MAX_IMAGE_PIXELS} pixels: "
        "cut it into parts or make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if it is to be "
        "trusted"
    )


def _decode_jpeg(content: bytes, image: Image.Image) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decodes a plain JPEG with OpenCV: equal pixels in half the time.

    Returns None for any other image, which Pillow has to decode.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    if image.getexif().get(_ORIENTATION, 1) != 1:
        return None
    if not content.endswith(_END_OF_JPEG):  # OpenCV fills up truncated files, Pillow refuses them.
        return None
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if 0 in image.size:
        raise ValueError(
            f"expected an image of at least 1x1 pixels, got {image.height}x{image.width}"
        )
    if image.mode.startswith("I"):  # "I;16", "I;16B" or "I": grey of more than 8 bits.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"expected 16-bit values, got {values.min()} to {values.max()}")
        return as_rgb(values.astype(np.uint16))
    if image.mode == "F":
        raise ValueError("expected integer pixels, got floating point")
    if "transparency" in image.info:  # Pillow warns unless it becomes an alpha channel first.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def load(given: AnyImage) -> UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]:
    """Converts a path, a Pillow image or an array to an RGB image.

    Files are read by `read_image`, arrays are converted by `as_rgb`. The EXIF orientation of a
    Pillow image is not applied.

    Raises:
        OSError: The file cannot be read as an image.
        ValueError: The argument is of another type, has no pixels, or is an array of another shape,
            dtype or range. The message says how to correct it.
    """
    if isinstance(given, str | os.PathLike):
        return read_image(given)
    if isinstance(given, Image.Image):
        return _to_rgb(given)
    array = np.asarray(given)
    is_content = isinstance(given, bytes | bytearray)
    if array.dtype == object or is_content:
        advice = ": images.decode_image reads the content of a file" if is_content else ""
        raise ValueError(
            "expected an array (H, W, 3), a path or a Pillow image, "
            f"got {type(given).__name__}{advice}"
        )
    return as_rgb(array)


def as_rgb(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]:
    """Converts an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) to an RGB image.

    Grey values are repeated and alpha is dropped. uint8 is kept, uint16 is divided by 257 and
    rounded to uint8, and floating point, which must lie in [0, 1], becomes float32.

    Raises:
        ValueError: The array has another shape, dtype or range. The message says what was expected
            and what was given.
    """
    image = np.asarray(image)
    grey = image[:, :, None] if image.ndim == 2 else image
    if grey.ndim != 3 or grey.shape[2] not in (1, 3, 4) or grey.size == 0:
        expected = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        advice = _advice_on_shape(image.shape)
        raise ValueError(f"expected an image of shape {expected}, got {image.shape}{advice}")
    color = np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey[:, :, :3]
    if color.dtype == np.uint8:
        return color
    if color.dtype == np.uint16:
        return ((color.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(color.dtype, np.floating):
        advice = "if its pixels are 0 to 255, convert it"
        if color.dtype == bool:
            advice = "multiply it by 255"
        raise ValueError(
            f"expected an image of dtype uint8, uint16 or floating point, got {color.dtype}: "
            f"{advice}, as uint8"
        )
    if not (color.min() >= 0 and color.max() <= 1):  # NaN fails this too.
        message = f"expected floating-point pixels in [0, 1], got {color.min()} to {color.max()}"
        raise ValueError(f"{message}: {_advice_on_range(color)}")
    return color.astype(np.float32)


def _advice_on_shape(shape: tuple[int, ...]) -> str:
    if 0 in shape:
        return ": it has no pixels"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return ": if that is (C, H, W), give image.transpose(1, 2, 0)"
    return ": give one image after the other" if len(shape) == 4 else ""


def _advice_on_range(image: Shaped[np.ndarray, "h w 3"]) -> str:
    num_broken = np.count_nonzero(~np.isfinite(image))
    if num_broken:
        return f"{num_broken} values are NaN or infinite, look where they come from"
    if image.min() < 0:
        return "leave out any normalisation, the model has its own"
    return "divide by 255" if image.max() <= 255 else "scale them"


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
    sides = (short_side, scale * width) if height < width else (scale * height, short_side)
    if max(sides) > max_long_side:
        scale = max_long_side / max(sides)
        sides = sides[0] * scale, sides[1] * scale
    return sides


def resize(
    image: UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"],
    size: Size,
    how: str = "bilinear",
) -> Float32[np.ndarray, "{size[0]} {size[1]} c"]:
    """Resizes an image to ``size`` (height, width), as float32 in [0, 1].

    uint8 images are divided by 255. ``how`` is one of:

    * "bilinear": half-pixel centres, without antialiasing, equal to
      `torch.nn.functional.interpolate`, as torchvision does.
    * "pillow": Pillow's bilinear filter, which antialiases and rounds to uint8, as Detectron2 does.
    * "opencv": OpenCV's bilinear filter, which rounds to uint8, as MMDetection does. Without
      OpenCV the result differs by at most one level.

    Floating-point images have no levels to round to: they are always resized by "bilinear".
    """
    if how != "bilinear" and image.dtype == np.uint8:
        return resize_uint8(image, size, how) * np.float32(1 / 255)
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
        np.minimum(result, 1, out=out[block])  # The weights may sum to one ulp more than 1.
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


def resize_uint8(
    image: UInt8[np.ndarray, "h w c"], size: Size, how: str = "bilinear"
) -> UInt8[np.ndarray, "{size[0]} {size[1]} c"]:
    """Resizes an image as `resize` does, rounded to uint8, for training.

    For "bilinear" the result differs by at most one level. OpenCV, if installed, makes this faster.
    """
    height, width, num_channels = image.shape
    image = np.ascontiguousarray(image)
    if (height, width) == tuple(size):
        return image
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
    mirrored = np.empty_like(image)
    # NumPy reverses single channels seven times faster than all channels at once.
    for channel in range(image.shape[2]):
        mirrored[:, :, channel] = image[:, ::-1, channel]
    return mirrored


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
