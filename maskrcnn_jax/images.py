"""Pictures on the host: reading them as RGB and resizing them by torchvision's rule.

Sizes are ``(height, width)`` in pixels, everywhere.
"""

import io
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

try:
    import cv2

    cv2.setNumThreads(1)  # Pictures are prepared by several threads already.
except ImportError:  # OpenCV makes the resizing of training images faster; nothing depends on it.
    cv2 = None

# Below twice this warning's size Pillow opens pictures, and so do we, without a word; above it Pillow refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Size = tuple[int, int]
Picture = Any  # What users give: an array as for `as_rgb`, of any library, a path or an image of Pillow's.

_ORIENTATION = 0x0112  # The EXIF tag.
_END_OF_JPEG = b"\xff\xd9"
_ROWS_PER_BLOCK = 64  # Output rows blended at once: their intermediates stay in the cache.


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture as RGB, turned the way its EXIF orientation says.

    Grey and palette pictures become RGB, alpha is dropped without blending, and 16-bit grey values are divided by 257.
    Pillow itself reduces 16-bit colour to its high byte, which differs from that by at most one level.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file cannot be read as a picture. The message names it.
    """
    try:
        with open(path, "rb") as file:
            return decode_image(file.read())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"cannot read the image {os.fspath(path)}: {error}") from error


def decode_image(content: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The same for the content of an image file. Raises OSError if it is no picture, or a broken one."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            pixels = _decode_jpeg(content, picture) if cv2 is not None else None
            return _to_rgb(ImageOps.exif_transpose(picture)) if pixels is None else pixels
    except UnidentifiedImageError as error:  # Its message has the address of the buffer.
        raise OSError("it is in no format that Pillow knows") from error
    except Image.DecompressionBombError as error:
        too_large = str(error).partition(", could be")[0]  # "Image size (... pixels) exceeds limit of ... pixels".
        advice = "cut it into parts or make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if it is to be trusted"
        raise OSError(f"{too_large}: {advice}") from error
    except MemoryError as error:
        raise OSError("there is not enough memory for its pixels: cut it into parts or make it smaller") from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files.
        raise OSError(str(error)) from error


def _decode_jpeg(content: bytes, picture: Image.Image) -> UInt8[np.ndarray, "h w 3"] | None:
    """The pixels by OpenCV, which decodes to the same in half the time; None for what is better left to Pillow."""
    plain = picture.format == "JPEG" and picture.mode in ("RGB", "L") and picture.getexif().get(_ORIENTATION, 1) == 1
    if not plain or not content.endswith(_END_OF_JPEG):  # OpenCV fills up what is cut off, Pillow refuses it.
        return None
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return None if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _to_rgb(picture: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if 0 in picture.size:
        raise ValueError(f"expected a picture of at least 1x1 pixels, got {picture.height}x{picture.width}")
    if picture.mode.startswith("I"):  # "I;16", its big-endian twin, or "I": grey of more than 8 bits.
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"expected 16-bit values, got {values.min()} to {values.max()}")
        return as_rgb(values.astype(np.uint16))
    if picture.mode == "F":
        raise ValueError("expected integer pixels, got floating point")
    if "transparency" in picture.info:  # Pillow warns unless this becomes an alpha channel first.
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))


def load(picture: Picture) -> UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]:
    """A picture as RGB: files by `read_image`, Pillow's images as they lie (not turned), arrays by `as_rgb`.

    Raises:
        OSError: The file cannot be read as a picture.
        ValueError: It is nothing of these, has no pixels, or is an array that is no image. The message says what to do.
    """
    if isinstance(picture, str | os.PathLike):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return _to_rgb(picture)
    array = np.asarray(picture)
    is_content = isinstance(picture, bytes | bytearray)
    if array.dtype == object or is_content:
        advice = ": images.decode_image reads the content of a file" if is_content else ""
        raise ValueError(f"expected an array (H, W, 3), a path or a Pillow image, got {type(picture).__name__}{advice}")
    return as_rgb(array)


def as_rgb(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]:
    """Makes an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) an RGB image.

    Grey is repeated and alpha dropped. uint8 stays, uint16 is divided by 257 and rounded to uint8, and floating point,
    which has to lie in [0, 1], becomes float32.

    Raises:
        ValueError: The shape, dtype or range is another. The message says what was expected and what came.
    """
    image = np.asarray(image)
    grey = image[:, :, None] if image.ndim == 2 else image
    if grey.ndim != 3 or grey.shape[2] not in (1, 3, 4) or grey.size == 0:
        expected = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise ValueError(f"expected an image of shape {expected}, got {image.shape}{_advice_on_shape(image.shape)}")
    color = np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey[:, :, :3]
    if color.dtype == np.uint8:
        return color
    if color.dtype == np.uint16:
        return ((color.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(color.dtype, np.floating):
        advice = "multiply it by 255" if color.dtype == bool else "if its pixels are 0 to 255, convert it"
        raise ValueError(
            f"expected an image of dtype uint8, uint16 or floating point, got {color.dtype}: {advice}, as uint8"
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
    if not np.isfinite(image).all():
        return f"{np.count_nonzero(~np.isfinite(image))} values are NaN or infinite, look where they come from"
    if image.min() < 0:
        return "leave out any normalisation, the model has its own"
    return "divide by 255" if image.max() <= 255 else "scale them"


def resized_size(size: Sequence[int] | Int[np.ndarray, " 2"], short_side: int, max_long_side: int) -> Size:
    """Size with the short side at ``short_side``, or smaller where the long one would exceed ``max_long_side``.

    torchvision's rule: the factor is a float64 and the result truncated, so that a short side of 97 becomes 799
    when 800 is asked for. Neither side falls below one pixel.
    """
    height, width = int(size[0]), int(size[1])
    scale = min(short_side / min(height, width), max_long_side / max(height, width))
    return max(int(height * scale), 1), max(int(width * scale), 1)


def resize(
    image: UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"], size: Size
) -> Float32[np.ndarray, "{size[0]} {size[1]} c"]:
    """Resizes by separable bilinear interpolation, half-pixel and without antialiasing, to float32 in [0, 1].

    This is what `torch.nn.functional.interpolate` computes; uint8 images are divided by 255.
    """
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
        np.minimum(result, 1, out=out[block])  # The two weights may sum to one and an ulp.
    return out


def _bilinear(
    num_inputs: int, num_outputs: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Indices of the two neighbours of each output pixel, and the weight of the second one."""
    ratio = np.float32(num_inputs / num_outputs)
    # Multiplied and subtracted in one, rounded once: so do the fused instructions that PyTorch compiles to.
    source = ((np.arange(num_outputs) + 0.5) * np.float64(ratio) - 0.5).astype(np.float32)
    source = np.maximum(source, 0)
    first = np.minimum(source.astype(np.int64), num_inputs - 1)
    second = np.minimum(first + 1, num_inputs - 1)
    return first, second, source - first.astype(np.float32)


def resize_uint8(image: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "{size[0]} {size[1]} 3"]:
    """The same resize rounded to uint8, for training: one grey level off at most, and faster with OpenCV installed."""
    (height, width), image = image.shape[:2], np.ascontiguousarray(image)
    if (height, width) == tuple(size):
        return image
    if cv2 is not None:
        return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    if size[0] >= height and size[1] >= width:  # Pillow interpolates by this rule too, unless it has to shrink.
        return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return np.rint(resize(image, size) * np.float32(255)).astype(np.uint8)


def mirror(image: Shaped[np.ndarray, "h w c"]) -> Shaped[np.ndarray, "h w c"]:
    """Exchanges left and right, in memory too."""
    mirrored = np.empty_like(image)
    for channel in range(image.shape[2]):  # NumPy copies single values backwards seven times faster than groups.
        mirrored[:, :, channel] = image[:, ::-1, channel]
    return mirrored


def ceil32(size: Sequence[int] | Int[np.ndarray, " 2"]) -> Size:
    """The size with both sides rounded up to multiples of 32, the stride of the coarsest backbone stage."""
    return -(-int(size[0]) // 32) * 32, -(-int(size[1]) // 32) * 32


def bucket_for(size: Sequence[int] | Int[np.ndarray, " 2"], buckets: Sequence[Sequence[int]]) -> Size:
    """The bucket of smallest area that holds an image of this size; of equal ones the first.

    Raises:
        ValueError: No bucket holds it. The message names the size and the buckets.
    """
    height, width = int(size[0]), int(size[1])
    holding = [(int(h), int(w)) for h, w in buckets if h >= height and w >= width]
    if not holding:
        raise ValueError(f"no bucket holds an image of {height}x{width}; the buckets are {[tuple(b) for b in buckets]}")
    return min(holding, key=lambda bucket: bucket[0] * bucket[1])


def largest_fit(size: Sequence[int] | Int[np.ndarray, " 2"], buckets: Sequence[Sequence[int]]) -> tuple[Size, Size]:
    """The largest size of the same shape that fits a bucket, and that bucket; of equal fits, the smaller bucket."""
    height, width = int(size[0]), int(size[1])
    candidates = [(int(h), int(w)) for h, w in buckets]
    scale, _, bucket = max((min(h / height, w / width), -h * w, (h, w)) for h, w in candidates)
    return (max(int(height * scale), 1), max(int(width * scale), 1)), bucket
