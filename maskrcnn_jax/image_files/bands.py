"""The channels of an image as its file stores them, and as a model takes them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image

_LARGEST = {"uint8": 255, "uint16": 65535}
_NUMBERS = ("uint8", "uint16", "float16", "float32", "float64")


class TooManyPixels(OSError):
    """An image is larger than Pillow would read."""


class Bands(NamedTuple):
    """The pixels of a file."""

    pixels: Shaped[np.ndarray, "h w c"]
    has_alpha: bool = False  # Whether the last channel is transparency.


class Header(NamedTuple):
    """The size of the pixels of a file."""

    height: int  # After the rotation that the file asks for.
    width: int
    num_channels: int
    dtype: str  # The name of the type of the pixels.
    has_alpha: bool = False


def check_count(found: Header, num_channels: int | None) -> None:
    """Raises ValueError if an image cannot become one of a number of channels; see `fit`."""
    count, is_grey = found.num_channels, found.num_channels - found.has_alpha == 1
    fits = num_channels in (None, count, count - found.has_alpha)
    if not fits and not (num_channels == 3 and is_grey):
        channels = "1 channel" if count == 1 else f"{count} channels"
        alpha = ", the last of them alpha" if found.has_alpha else ""
        raise ValueError(f"it has {channels}{alpha}; expected {num_channels}, as image_mean has")


def fit(found: Bands, num_channels: int | None) -> Shaped[np.ndarray, "h w c"]:
    """Returns the pixels with a number of channels; with those of the file for None.

    Alpha is dropped if it is one channel too many. For three channels grey is repeated.

    Raises:
        ValueError: The image has another number of channels. The message says both.
    """
    header = Header(*found.pixels.shape, found.pixels.dtype.name, found.has_alpha)
    check_count(header, num_channels)
    if num_channels in (None, header.num_channels):
        return found.pixels
    pixels = found.pixels[:, :, : header.num_channels - found.has_alpha]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] < num_channels else pixels


def convert(pixels: Shaped[np.ndarray, "h w c"], dtype: str | None) -> Shaped[np.ndarray, "h w c"]:
    """Converts the pixels of a file to "uint8" or "float32".

    With "float32" the whole numbers of 8 and of 16 bits are divided by 255 and by 65535, and
    floating-point numbers stay as they are. With "uint8" numbers of 16 bits are divided by 257, and
    floating-point numbers, which must lie in [0, 1], are multiplied by 255; both are rounded. With
    None whole numbers stay as they are, and floating-point numbers become float32.

    Raises:
        ValueError: A pixel is NaN or infinite, or the pixels have another type or range.
    """
    name = pixels.dtype.name
    check_type(pixels.dtype)
    if name not in _LARGEST:
        return _converted_floats(pixels, dtype)
    if dtype in (None, name):
        return pixels
    if dtype == "float32":
        return pixels * np.float32(1 / _LARGEST[name])
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def check_type(dtype: np.dtype) -> None:
    """Raises ValueError for pixels of a type that is not read."""
    if dtype.name not in _NUMBERS:
        raise ValueError(f"it has pixels of type {dtype.name}: save it as uint8, uint16 or float32")


def check_size(height: int, width: int, num_channels: int = 1) -> None:
    """Raises `TooManyPixels` for more than Pillow would read, three channels counted."""
    most = Image.MAX_IMAGE_PIXELS
    if most is None or (height * width <= 2 * most and height * width * num_channels <= 6 * most):
        return
    size = f"{height * width} pixels" + f" of {num_channels} channels" * (num_channels > 1)
    limit = f"{2 * most} pixels" + " of 3 channels" * (num_channels > 1)
    raise TooManyPixels(
        f"Image size ({size}) exceeds limit of {limit}: cut it into parts or make it smaller, or "
        "raise PIL.Image.MAX_IMAGE_PIXELS if it is to be trusted"
    )


def _converted_floats(
    pixels: Shaped[np.ndarray, "h w c"], dtype: str | None
) -> Shaped[np.ndarray, "h w c"]:
    with np.errstate(over="ignore"):  # Becomes infinite, which is refused.
        pixels = pixels.astype(np.float32, copy=False)
    finite = np.isfinite(pixels)
    if not finite.all():
        count = finite.size - np.count_nonzero(finite)
        raise ValueError(f"{count} of {finite.size} values are NaN, infinite or beyond float32")
    if dtype != "uint8":
        return pixels
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"it has floating-point pixels from {low:g} to {high:g}: data.image_dtype=float32 "
            "takes them as they are, data.image_dtype=uint8 only from 0 to 1"
        )
    return np.rint(pixels * np.float32(255)).astype(np.uint8)
