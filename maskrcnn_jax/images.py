"""Images on the host: reads them as RGB and resizes them by torchvision's rule.

All sizes are ``(height, width)`` in pixels.
"""

import io
import logging
import os
import struct
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Shaped, UInt8
from PIL import Image, ImageOps

from maskrcnn_jax import image_headers

try:
    import cv2
except ImportError:  # OpenCV is optional: it only makes decoding and resizing faster.
    cv2 = None  # type: ignore[assignment]

# An image as users give it: an array of any library, see `as_rgb`; a path; or a Pillow image.
AnyImage = Any

_ORIENTATION = 0x0112  # The EXIF tag of the orientation.
_END_OF_JPEG = b"\xff\xd9"
_WITH_PAGES = ("TIFF", "GIF", "PNG", "WEBP")
_UNSAFE = ("EPS",)  # Pillow runs another program, Ghostscript, to draw these.
_DARK = 8192  # Of 65535: brighter pixels show that an image uses its 16 bits.

_logger = logging.getLogger(__name__)
_warned: set[str] = set()  # Each warning is for the first file that it is about.


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
    if "://" in os.fspath(path)[:9]:
        raise FileNotFoundError(f"{os.fspath(path)} is an address: download the file first")
    try:
        with _open_file(path) as file:
            return _decode(file.read(), os.fspath(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"cannot read the image {os.fspath(path)}: {error}") from error


def decode_image(content: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the content of an image file, as `read_image` does.

    Raises OSError if the content is broken or not an image.
    """
    return _decode(content, "an image")


def _decode(content: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with _open(io.BytesIO(content)) as opened:
            if opened.format in _WITH_PAGES and getattr(opened, "n_frames", 1) > 1:
                _warn(f"of {opened.format} files with several pages only the first is read", name)
            if opened.mode.startswith("I;16") and np.max(opened.getextrema()) < _DARK:
                _warn("16-bit images that use less than an eighth of the range look black", name)
            pixels = _decode_jpeg(content, opened) if cv2 is not None else None
            return _to_rgb(ImageOps.exif_transpose(opened)) if pixels is None else pixels
    except MemoryError as error:
        raise OSError(
            "there is not enough memory for its pixels: cut it into parts or make it smaller"
        ) from error
    except Exception as error:  # Pillow's decoders raise errors of many kinds on broken files.
        raise OSError(str(error)) from error


def read_ids(path: str | os.PathLike[str]) -> Int32[np.ndarray, "h w"]:
    """Reads an image whose pixels are ids: palette indices, grey values, or colours.

    The red, green and blue of a colour are the digits of its id, to the base 256; alpha is dropped.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be read as such an image. The message names the file.
    """
    try:
        with _open_file(path) as file, _open(file) as opened:
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


def check_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Reads the header of an image, and checks that the file has an end.

    A file without the end of its format is decoded, since few of them are whole.

    Returns:
        Height and width in pixels, after the EXIF rotation.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file is no image, or is cut off. The message names the file.
    """
    try:
        with _open_file(path) as file, _open(file) as opened:
            size, kind = image_headers.size(opened), opened.format
    except FileNotFoundError:
        raise
    except Exception as error:  # As in `decode_image`.
        raise OSError(f"cannot read the image {os.fspath(path)}: {error}") from error
    return read_image(path).shape[:2] if image_headers.is_cut(path, kind) else size


def _open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file. Raises OSError for pipes and devices, which may wait or send for ever."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is a directory, pipe or device, not a file")
    return open(path, "rb")


def _warn(message: str, name: str) -> None:
    if message not in _warned:
        _warned.add(message)
        _logger.warning("%s; the first one is %s", message, name)


def _open(file: io.BytesIO | io.BufferedReader) -> Image.Image:
    """Opens an image as `Image.open` does, but without Pillow's warning about large images.

    The warning could only be silenced for the whole process. Like Pillow, this refuses images of
    more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    tried: set[str] = set(_UNSAFE)
    start = file.read(16)
    for load_formats in (Image.preinit, Image.init):  # Try the common formats first, then all.
        load_formats()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            opened = _open_as(name, start, file)
            if opened is not None:
                _check_size(opened.width * opened.height)
                return opened
    file.seek(0)
    raise OSError(image_headers.explain(file.read()))


def _open_as(name: str, start: bytes, file: io.BytesIO | io.BufferedReader) -> Image.Image | None:
    """Opens an image in one of Pillow's formats. Returns None for a file of another format."""
    factory, accepts = Image.OPEN[name]
    try:
        answer = accepts is None or accepts(start)
        if not answer or isinstance(answer, str):  # A string names a missing library.
            return None
        file.seek(0)
        return factory(file, "")
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
    if color.dtype.name == "bfloat16":  # NumPy does not count it as floating point.
        color = color.astype(np.float32)
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
