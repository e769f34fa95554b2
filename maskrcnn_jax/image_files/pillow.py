"""Image files that Pillow reads: opens them safely, and decodes their channels."""

import io
import struct

import numpy as np
from jaxtyping import Shaped, UInt16
from PIL import Image, ImageOps

from maskrcnn_jax.image_files import headers, once
from maskrcnn_jax.image_files.bands import Bands, Header, check_size

try:
    import cv2
except ImportError:  # OpenCV is optional: Pillow reads 8 of the 16 bits of coloured PNGs.
    cv2 = None  # type: ignore[assignment]

_UNSAFE = ("EPS",)  # Pillow runs another program, Ghostscript, to draw these.
_WITH_PAGES = ("TIFF", "GIF", "PNG", "WEBP")
_DARK = 8192  # Of 65535: brighter pixels show that an image uses its 16 bits.
_DEEP_COLORS = {2: 3, 6: 4}  # Channels by the types of colour of PNG.


def open_safely(file: io.BytesIO | io.BufferedReader) -> Image.Image:
    """Opens an image as `Image.open` does, but without Pillow's warning about large images.

    The warning could only be silenced for the whole process. Like Pillow, this refuses images of
    more than twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises OSError for a file that is too large or no image.
    """
    tried: set[str] = set(_UNSAFE)
    start = file.read(16)
    for load_formats in (Image.preinit, Image.init):  # Try the common formats first, then all.
        load_formats()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            opened = _open_as(name, start, file)
            if opened is not None:
                check_size(opened.height, opened.width)
                return opened
    file.seek(0)
    raise OSError(headers.explain(file.read()))


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


def warn_of_losses(opened: Image.Image, name: str) -> None:
    """Warns if a file has further pages, or 16 bits of which few are used."""
    if opened.format in _WITH_PAGES and getattr(opened, "n_frames", 1) > 1:
        once.warn(f"of {opened.format} files with several pages only the first is read", name)
    if opened.mode.startswith("I;16") and np.max(opened.getextrema()) < _DARK:
        once.warn("16-bit images that use less than an eighth of the range look black", name)


def header(opened: Image.Image) -> Header:
    """The size of an image, and the number and type of its channels, as `bands` gives them."""
    mode = _mode(opened)
    dtype = {"F": "float32", "I": "uint16"}.get(mode[:1], "uint8")
    has_alpha = mode in ("LA", "RGBA")
    num_channels = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode, 1)
    return Header(*headers.size(opened), num_channels, dtype, has_alpha)


def bands(content: bytes, name: str) -> Bands:
    """Decodes an image with its channels: grey or RGB, and alpha.

    Palettes and other spaces of colour become RGB. uint8, uint16 or float32.

    Raises OSError or another error for a broken file.
    """
    with open_safely(io.BytesIO(content)) as opened:
        warn_of_losses(opened, name)
        return of_image(ImageOps.exif_transpose(opened), deep_pixels(content, opened, name))


def of_image(image: Image.Image, deep: UInt16[np.ndarray, "h w c"] | None = None) -> Bands:
    """Takes the channels of a Pillow image, or those that were read with 16 bits.

    Raises ValueError if the image has no pixels, or numbers that are not those of 16 bits.
    """
    if 0 in image.size:
        raise ValueError(
            f"expected an image of at least 1x1 pixels, got {image.height}x{image.width}"
        )
    mode = _mode(image)
    has_alpha = mode in ("LA", "RGBA")
    if deep is not None:
        return Bands(deep, has_alpha)
    if image.mode.startswith("I"):  # "I;16", "I;16B" or "I": grey of more than 8 bits.
        return Bands(deep_grey(image)[:, :, None])
    if image.mode == "F":
        return Bands(np.asarray(image)[:, :, None])
    pixels = np.asarray(image.convert(mode))
    return Bands(pixels.reshape(*pixels.shape[:2], -1), has_alpha)


def deep_grey(image: Image.Image) -> UInt16[np.ndarray, "h w"]:
    """The values of an image of a mode of more than 8 bits.

    Raises ValueError for values that are not those of 16 bits.
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"expected 16-bit values, got {values.min()} to {values.max()}")
    return values.astype(np.uint16)


def _mode(image: Image.Image) -> str:
    """The mode to convert an image to: its own, but for palettes and spaces of colour."""
    if image.mode.startswith("I") or image.mode == "F":
        return image.mode
    if "transparency" in image.info and image.mode in ("P", "RGB", "L"):
        return "LA" if image.mode == "L" else "RGBA"
    own = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGBA": "RGBA", "RGBa": "RGBA", "PA": "RGBA"}
    return own.get(image.mode, "RGB")


def deep_pixels(
    content: bytes, opened: Image.Image, name: str
) -> Shaped[np.ndarray, "h w c"] | None:
    """Decodes a coloured PNG of 16 bits with OpenCV; None for any other file.

    Without OpenCV a warning says that the lower 8 bits are lost.
    """
    if opened.format != "PNG" or content[24] != 16 or content[25] not in _DEEP_COLORS:
        return None
    if cv2 is None:
        lost = "without OpenCV only the upper 8 of 16 bits are read of coloured PNG files"
        once.warn(f"{lost}: pip install 'maskrcnn-jax[fast]'", name)
        return None
    opened.load()  # Refuses broken files with a message.
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[2] != _DEEP_COLORS[content[25]]:
        return None
    order = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return cv2.cvtColor(pixels, order)
