"""Images in NumPy's format ``.npy``: arrays (H, W) or (H, W, C). Pickles are never read."""

import io
import os
from math import prod

import numpy as np

from maskrcnn_jax.image_files.bands import Bands, Header, check_type

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 65_536  # NumPy itself refuses headers of more than 10,000 bytes.
_PARSERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def header(start: bytes, num_bytes: int) -> Header:
    """Reads the size of an image.

    Args:
        start: The first 64 KiB of the file, or all of it.
        num_bytes: The size of the file.

    Raises:
        ValueError: It is no image, or its header and its size disagree.
    """
    shape, dtype, _, _ = _layout(start, num_bytes)
    return Header(*shape, dtype.name)


def read(content: bytes) -> Bands:
    """Reads the pixels of a file. Raises the errors of `header`."""
    shape, dtype, is_fortran, offset = _layout(content, len(content))
    numbers = np.frombuffer(content, dtype, offset=offset).astype(dtype.newbyteorder("="))
    if is_fortran:  # (H, W) and (H, W, 1) have the same order of elements.
        return Bands(numbers.reshape(shape[::-1]).T)
    return Bands(numbers.reshape(shape))


def mapped(path: str | os.PathLike[str], start: bytes, num_bytes: int) -> np.ndarray:
    """The array (H, W, C) of a file, which stays on the disk. Arguments and errors as `header`."""
    shape, dtype, is_fortran, offset = _layout(start, num_bytes)
    return np.memmap(path, dtype, "r", offset, shape, order="F" if is_fortran else "C")


def _layout(start: bytes, num_bytes: int) -> tuple[tuple[int, int, int], np.dtype, bool, int]:
    """Shape, dtype, whether columns come first, and where the elements begin."""
    file = io.BytesIO(start[:LONGEST_HEADER])
    try:
        parse = _PARSERS[np.lib.format.read_magic(file)]
        shape, is_fortran, dtype = parse(file)
    except Exception as error:  # NumPy evaluates the header as a literal, which fails in many ways.
        raise ValueError(f"its NumPy header is broken: {str(error)[:200]}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read: save an array of numbers")
    check_type(dtype)
    if len(shape) not in (2, 3) or any(size < 1 for size in shape):
        raise ValueError(f"expected an array (H, W) or (H, W, C), got the shape {str(shape)[:100]}")
    given = num_bytes - file.tell()
    if prod(shape) * dtype.itemsize != given:
        raise ValueError(
            f"it should have {prod(shape) * dtype.itemsize} bytes of pixels, by its header, "
            f"but has {given}: it is cut off, or its header is wrong"
        )
    return (*shape, 1)[:3], dtype, is_fortran, file.tell()
