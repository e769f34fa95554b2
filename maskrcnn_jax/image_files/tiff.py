"""TIFF files that Pillow does not read: other numbers of bands, of bits, or one band in each page.

The package tifffile reads them. Only the pages of the file itself are read: its descriptions, such
as OME's, could name other files.
"""

import io
import struct
from typing import Any

import numpy as np
from jaxtyping import Shaped

from maskrcnn_jax.image_files import headers, once
from maskrcnn_jax.image_files.bands import Bands, Header, check_size, check_type

_SMALL, _BIG = (b"II*\0", b"MM\0*"), (b"II+\0", b"MM\0+")  # The others are BigTIFF.
MAGIC = _SMALL + _BIG
_WIDTH, _HEIGHT = 256, 257
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 284, 338, 339
_GREY, _RGB = 1, 2  # Photometric interpretations.
_ALPHA = (1, 2)  # Kinds of extra samples.
_NOT_FULL = 1 | 4  # Subfile types: smaller copies of a page, and masks of transparency.
_MOST_PAGES = 4096


def is_needed(file: io.BytesIO | io.BufferedReader) -> bool:
    """Whether a file is a TIFF that Pillow reads in part, wrongly or not at all."""
    file.seek(0)
    start = file.read(4)
    if start in _BIG or start not in _SMALL:
        return start in _BIG
    try:
        tags, has_next = headers.tiff_tags(file)
    except struct.error:
        return False  # Pillow refuses it.
    bits, samples, kind = tags.get(_BITS, 1), tags.get(_SAMPLES, 1), tags.get(_FORMAT, 1)
    photometric = tags.get(_PHOTOMETRIC, _GREY)
    if photometric not in (_GREY, _RGB):
        return False
    if samples == 1:
        return has_next or bits > 32 or (kind == 3 and bits != 32)
    has_alpha = samples in (2, 4) and tags.get(_EXTRA, 0) in _ALPHA
    is_plain = samples - has_alpha == (3 if photometric == _RGB else 1)
    return bits != 8 or not is_plain or (tags.get(_PLANAR, 1) != 1 and samples != 3)


def num_pixels(file: io.BytesIO | io.BufferedReader) -> int | None:
    """The number of pixels of the first page; None if tifffile has to find it."""
    file.seek(0)
    if file.read(4) in _BIG:
        return None
    try:
        tags, _ = headers.tiff_tags(file)
    except struct.error:
        return None
    return tags.get(_WIDTH, 0) * tags.get(_HEIGHT, 0)


def header(file: io.BytesIO | io.BufferedReader) -> Header:
    """Reads the size of an image. Raises the errors of `read`."""
    with open_file(file) as opened:
        pages, num_channels, has_alpha = find_bands(opened)
        height, width = _size(pages[0])
        check_size(height, width, num_channels)
        if orientation(pages[0]) >= 5:
            height, width = width, height
        return Header(height, width, num_channels, pages[0].dtype.name, has_alpha)


def read(content: bytes, name: str) -> Bands:
    """Reads the pixels of a file: the bands of its first page, or one band of each of its pages.

    Pages of another size or type than the first do not count.

    Raises:
        OSError: tifffile is not installed, or the file is cut off, too large or compressed in a way
            that needs another package.
        ValueError: The file is broken, or its pixels are of a kind that is not read.
    """
    with open_file(io.BytesIO(content)) as opened:
        pages, num_channels, has_alpha = find_bands(opened)
        check_size(*_size(pages[0]), num_channels)
        if len(opened.pages) > len(pages):
            once.warn("of TIFF files with several pages not all are read", name)
        try:
            parts = [_page(page) for page in pages]
        except (ValueError, KeyError) as error:
            if "imagecodecs" in str(error):
                how = f"its compression needs another package: pip install imagecodecs ({error})"
                raise OSError(how) from error
            raise
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        return Bands(_turned(pixels, orientation(pages[0])), has_alpha)


def open_file(file: io.BytesIO | io.BufferedReader) -> Any:
    """Opens a file with tifffile. Raises OSError if that is not installed."""
    try:
        import tifffile  # Few data sets need it.
    except ImportError as error:
        found = headers.describe_tiff(file)
        install = "pip install 'maskrcnn-jax[tiff]'"
        raise OSError(f"it is {found}, which the package tifffile reads: {install}") from error
    file.seek(0)
    return tifffile.TiffFile(file)


def find_bands(opened: Any) -> tuple[list[Any], int, bool]:
    """The pages that have bands, the number of bands, and whether the last one is alpha.

    Raises OSError if a file is cut off, and ValueError for pixels that are not read.
    """
    if len(opened.pages) > _MOST_PAGES:
        raise ValueError(f"it has {len(opened.pages)} pages, at most {_MOST_PAGES} are read")
    first = opened.pages[0]
    height, width = _size(first)
    num_channels, has_alpha = first.samplesperpixel, False
    pages = [first]
    if num_channels == 1:
        pages = [x for x in opened.pages if x.shape == first.shape and x.dtype == first.dtype]
        pages = [x for x in pages if not getattr(x, "subfiletype", 0) & _NOT_FULL] or [first]
        num_channels = len(pages)
    else:
        has_alpha = any(int(kind) in _ALPHA for kind in first.extrasamples[-1:])
    if min(height, width) < 1:
        raise ValueError(f"expected an image of at least 1x1 pixels, got {height}x{width}")
    for page in pages:
        _check(page, opened.filehandle.size)
    return pages, num_channels, has_alpha


def _check(page: Any, num_bytes: int) -> None:
    """Raises an error for a page whose pixels are not read, or are not in the file."""
    if page.dtype is None or int(page.photometric) not in (_GREY, _RGB) or "Z" in page.axes:
        raise ValueError("it has pixels that are neither grey values nor bands: save them as such")
    check_type(page.dtype)
    check_size(*(page.chunks[:2] if len(page.chunks) > 1 else (1, 1)))
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=False):
        if start + length > num_bytes:
            raise OSError(f"it is cut off: it has {num_bytes} bytes of {start + length} or more")


def _size(page: Any) -> tuple[int, int]:
    return page.imagelength, page.imagewidth


def _page(page: Any) -> Shaped[np.ndarray, "h w c"]:
    pixels = page.asarray(maxworkers=1)  # Several images are read at once already.
    if page.axes == "SYX":  # Planar: band by band.
        pixels = np.moveaxis(pixels, 0, 2)
    pixels = pixels.reshape(*_size(page), -1)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def orientation(page: Any) -> int:
    """The orientation of a page, from 1 to 8; 1 is upright."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None and int(tag.value) in range(1, 9) else 1


def _turned(pixels: Shaped[np.ndarray, "h w c"], orientation: int) -> Shaped[np.ndarray, "_ _ c"]:
    """Applies the orientation of TIFF and EXIF, from 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(pixels, flips.get(orientation, ())))
