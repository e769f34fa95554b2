"""Images on the host: reads files, and converts arrays, to the channels of a model.

All sizes are ``(height, width)`` in pixels.
"""

import io
import os
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Shaped, UInt8, UInt16
from PIL import Image, ImageOps

from maskrcnn_jax.image_files import bands, headers, npy, pillow, tiff

try:
    import cv2
except ImportError:  # OpenCV is optional: it only makes decoding and resizing faster.
    cv2 = None  # type: ignore[assignment]

# An image as users give it: an array of any library, see `as_rgb`; a path; or a Pillow image.
AnyImage = Any
Pixels = UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]

_ORIENTATION = 0x0112  # The EXIF tag of the orientation.
_END_OF_JPEG = b"\xff\xd9"


def use_one_thread() -> None:
    """Limits OpenCV, if installed, to the calling thread, in the whole process and permanently.

    Call this in a process that prepares images in several threads.
    """
    if cv2 is not None:
        cv2.setNumThreads(1)


def read_image(
    path: str | os.PathLike[str], num_channels: int | None = 3, dtype: str | None = "uint8"
) -> Pixels:
    """Reads an image, and applies its EXIF orientation.

    By default it is RGB of 8 bits. Grey is repeated for three channels. Palettes and other spaces
    of colour become RGB. Alpha is dropped without blending if it is one channel too many. The
    channels of a TIFF are the bands of its first page, or one band of each page; those of an
    ``.npy`` file are the last axis of its array (H, W, C) or (H, W).

    Args:
        path: The file.
        num_channels: The number of channels; None for those of the file.
        dtype: "uint8", "float32", or None for the type of the file; see `bands.convert`. As
            "uint8", 16-bit colour that Pillow reads is reduced to its high byte, which differs by
            at most one level.

    Returns:
        An array (H, W, C).

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be read as an image, or has another number of channels. The message
            names the file.
    """
    if "://" in os.fspath(path)[:9]:
        raise FileNotFoundError(f"{os.fspath(path)} is an address: download the file first")
    try:
        with open_file(path) as file:
            return _decode(file.read(), os.fspath(path), num_channels, dtype)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"cannot read the image {os.fspath(path)}: {error}") from error


def decode_image(
    content: bytes, num_channels: int | None = 3, dtype: str | None = "uint8"
) -> Pixels:
    """Decodes the content of an image file, as `read_image` does.

    Raises OSError if the content is broken or not an image, or has another number of channels.
    """
    return _decode(content, "an image", num_channels, dtype)


def _decode(content: bytes, name: str, num_channels: int | None, dtype: str | None) -> Pixels:
    try:
        if content.startswith(npy.MAGIC):
            found = npy.read(content)
        elif tiff.is_needed(io.BytesIO(content)):
            found = tiff.read(content, name)
        elif num_channels == 3 and dtype == "uint8":
            return _decode_rgb(content, name)
        else:
            found = pillow.bands(content, name)
        return bands.convert(bands.fit(found, num_channels), dtype)
    except MemoryError as error:
        raise OSError(
            "there is not enough memory for its pixels: cut it into parts or make it smaller"
        ) from error
    except Exception as error:  # The decoders raise errors of many kinds on broken files.
        raise OSError(str(error)) from error


def _decode_rgb(content: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    with pillow.open_safely(io.BytesIO(content)) as opened:
        pillow.warn_of_losses(opened, name)
        pixels = _decode_jpeg(content, opened) if cv2 is not None else None
        return _to_rgb(ImageOps.exif_transpose(opened)) if pixels is None else pixels


def read_ids(path: str | os.PathLike[str]) -> Int32[np.ndarray, "h w"]:
    """Reads an image whose pixels are ids: palette indices, grey values, or colours.

    The red, green and blue of a colour are the digits of its id, to the base 256; alpha is dropped.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be read as such an image. The message names the file.
    """
    try:
        with open_file(path) as file, pillow.open_safely(file) as opened:
            if opened.mode in ("RGB", "RGBA"):
                red, green, blue = np.moveaxis(np.asarray(opened.convert("RGB"), np.int32), 2, 0)
                return (red << 16) | (green << 8) | blue
            if opened.mode not in ("1", "L", "P") and not opened.mode.startswith("I"):
                raise OSError(f"pixels of the mode {opened.mode} are no ids")
            return np.asarray(opened).astype(np.int32)
    except FileNotFoundError:
        raise
    except Exception as error:  # As in `decode_image`.
        raise OSError(f"cannot read the image {os.fspath(path)}: {error}") from error


def check_image(
    path: str | os.PathLike[str], num_channels: int | None = None, dtype: str | None = None
) -> tuple[int, int]:
    """Reads the header of an image, and checks that the file has an end.

    A file without the end of its format is decoded, since few of them are whole. So is one with
    floating-point pixels for the dtype "uint8", since few of them lie in [0, 1].

    Args:
        path: The file.
        num_channels: The number of channels that it has to have, as in `read_image`; None for any.
        dtype: As in `read_image`.

    Returns:
        Height and width in pixels, after the EXIF rotation.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file is no image, is cut off, or has other channels. The message names the
            file.
    """
    found, kind = _header(path, num_channels)
    is_decoded = headers.is_cut(path, kind) or (dtype == "uint8" and found.dtype.startswith("f"))
    if is_decoded:
        return read_image(path, num_channels, dtype).shape[:2]
    return found.height, found.width


def header(path: str | os.PathLike[str]) -> bands.Header:
    """Reads the size, the number of channels and the type of an image. Errors as `check_image`."""
    return _header(path, None)[0]


def content_header(content: bytes) -> bands.Header:
    """Reads the header of the content of an image file.

    Raises OSError if it is no image, and its subclass `bands.TooManyPixels` if it is too large.
    """
    try:
        return _opened_header(io.BytesIO(content))[0]
    except bands.TooManyPixels:
        raise
    except Exception as error:  # As in `decode_image`.
        raise OSError(str(error)) from error


def _header(
    path: str | os.PathLike[str], num_channels: int | None
) -> tuple[bands.Header, str | None]:
    """The header of an image, and Pillow's name of its format."""
    try:
        with open_file(path) as file:
            found, kind = _opened_header(file)
        bands.check_count(found, num_channels)
    except FileNotFoundError:
        raise
    except Exception as error:  # As in `decode_image`.
        raise OSError(f"cannot read the image {os.fspath(path)}: {error}") from error
    return found, kind


def _opened_header(file: io.BufferedReader | io.BytesIO) -> tuple[bands.Header, str | None]:
    start = file.read(len(npy.MAGIC))
    if start == npy.MAGIC:
        start += file.read(npy.LONGEST_HEADER)
        return npy.header(start, file.seek(0, os.SEEK_END)), None
    if tiff.is_needed(file):
        return tiff.header(file), None
    file.seek(0)
    with pillow.open_safely(file) as opened:
        return pillow.header(opened), opened.format


def check_channels(num_channels: int, has_alpha: bool, expected: int | None) -> None:
    """Checks the number of channels that a `header` gave, as `check_image` does.

    Raises ValueError if such an image cannot be read with the expected number, see `read_image`.
    """
    bands.check_count(bands.Header(1, 1, num_channels, "uint8", has_alpha), expected)


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file. Raises OSError for pipes and devices, which may wait or send for ever."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is a directory, pipe or device, not a file")
    return open(path, "rb")


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
    if image.mode.startswith("I") or image.mode == "F" or 0 in image.size:
        return bands.convert(bands.fit(pillow.of_image(image), 3), "uint8")
    if "transparency" in image.info:  # Pillow warns unless it becomes an alpha channel first.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def load(
    given: AnyImage, num_channels: int = 3, dtype: str = "uint8"
) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """Converts a path, a Pillow image or an array to an image with the channels of a model.

    Files are read by `read_image`. Arrays for three channels of "uint8" are converted by `as_rgb`,
    others as files are; floating-point arrays stay floating point. The EXIF orientation of a Pillow
    image is not applied.

    Args:
        given: The image.
        num_channels: The number of channels.
        dtype: "uint8" or "float32", ``data.image_dtype`` of the model.

    Raises:
        OSError: The file cannot be read as an image.
        ValueError: The argument is of another type, has no pixels, or is an array of another shape,
            dtype or range. The message says how to correct it.
    """
    is_common = (num_channels, dtype) == (3, "uint8")
    if isinstance(given, str | os.PathLike):
        return read_image(given, num_channels, dtype)
    if isinstance(given, Image.Image):
        if is_common:
            return _to_rgb(given)
        return bands.convert(bands.fit(pillow.of_image(given), num_channels), dtype)
    array = np.asarray(given)
    is_content = isinstance(given, bytes | bytearray)
    if array.dtype == object or is_content:
        advice = ": images.decode_image reads the content of a file" if is_content else ""
        raise ValueError(
            f"expected an array (H, W, {num_channels}), a path or a Pillow image, "
            f"got {type(given).__name__}{advice}"
        )
    return as_rgb(array) if is_common else _with_channels(array, num_channels, dtype)


def _with_channels(
    array: np.ndarray, num_channels: int, dtype: str
) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    pixels = array[:, :, None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.size == 0:
        expected = f"expected an image of shape (H, W, {num_channels}), as image_mean has numbers"
        raise ValueError(f"{expected}, got {array.shape}{_advice_on_shape(array.shape)}")
    pixels = _checked_floats(pixels, dtype)
    has_alpha = (num_channels, pixels.shape[2]) == (3, 4)
    pixels = bands.fit(bands.Bands(pixels, has_alpha), num_channels)
    return pixels if pixels.dtype == np.float32 else bands.convert(pixels, dtype)


def _checked_floats(pixels: Shaped[np.ndarray, "h w c"], dtype: str) -> Shaped[np.ndarray, "h w c"]:
    """Converts floating point to float32. With "uint8" it has to lie in [0, 1]."""
    if pixels.dtype.name == "bfloat16":  # NumPy does not count it as floating point.
        pixels = pixels.astype(np.float32)
    if not np.issubdtype(pixels.dtype, np.floating):
        return pixels
    if dtype == "uint8" and not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN fails this too.
        message = f"expected floating-point pixels in [0, 1], got {pixels.min()} to {pixels.max()}"
        raise ValueError(f"{message}: {_advice_on_range(pixels)}")
    return bands.convert(pixels, None)


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
    color = _checked_floats(color, "uint8")
    if color.dtype in (np.uint8, np.float32):
        return color
    if color.dtype == np.uint16:
        return bands.convert(color, "uint8")
    advice = "if its pixels are 0 to 255, convert it"
    if color.dtype == bool:
        advice = "multiply it by 255"
    raise ValueError(
        f"expected an image of dtype uint8, uint16 or floating point, got {color.dtype}: "
        f"{advice}, as uint8"
    )


def _advice_on_shape(shape: tuple[int, ...]) -> str:
    if 0 in shape:
        return ": it has no pixels"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return ": if that is (C, H, W), give image.transpose(1, 2, 0)"
    return ": give one image after the other" if len(shape) == 4 else ""


def _advice_on_range(image: Shaped[np.ndarray, "h w c"]) -> str:
    num_broken = np.count_nonzero(~np.isfinite(image))
    if num_broken:
        return f"{num_broken} values are NaN or infinite, look where they come from"
    if image.min() < 0:
        return "leave out any normalisation, the model has its own"
    return "divide by 255" if image.max() <= 255 else "scale them"
