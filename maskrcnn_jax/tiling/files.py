"""Image files that are read window by window: ``.npy`` files and large TIFFs."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped

from maskrcnn_jax import images
from maskrcnn_jax.image_files import bands, npy, tiff
from maskrcnn_jax.ops.rounding import ceil_div
from maskrcnn_jax.resizing import Size

LARGE = 2**26  # Pixels. Smaller images are read whole.
CACHED = 2**28  # Bytes of decoded tiles that are kept, because windows overlap.
LARGEST_TILE = 2**27  # Bytes.

Read = Callable[[slice, slice], Shaped[np.ndarray, "h w c"]]


class FileImage:
    """An image whose slices ``image[y0:y1, x0:x1]`` are read when they are asked for.

    Slices are arrays as of `images.read_image`. ``shape`` is height, width and channels.
    """

    def __init__(
        self,
        read: Read,
        found: bands.Header,
        name: str,
        num_channels: int | None = None,
        dtype: str | None = None,
    ) -> None:
        """Without a number of channels or a dtype, those of the file stay."""
        self.shape = found.height, found.width, num_channels or found.num_channels
        self._read, self._has_alpha, self._name = read, found.has_alpha, name
        self._num_channels, self._dtype = num_channels, dtype

    def __getitem__(self, part: tuple[slice, slice]) -> images.Pixels:
        try:
            found = bands.Bands(self._read(*part), self._has_alpha)
            return bands.convert(bands.fit(found, self._num_channels), self._dtype)
        except Exception as error:  # The decoders raise errors of many kinds on broken files.
            place = ", ".join(f"{side.start} to {side.stop}" for side in part)
            raise OSError(
                f"cannot read rows and columns {place} of {self._name}: {error}"
            ) from error


@contextlib.contextmanager
def open_image(
    path: str | os.PathLike[str], num_channels: int = 3, dtype: str = "uint8"
) -> Iterator[Any]:
    """Opens an image for reading windows: a `FileImage`, or an array if it is small.

    Images of at most `LARGE` pixels, and large ones in formats that have no parts, are read whole.
    Arrays of ``.npy`` files are mapped into memory. Tiles and strips of TIFFs are decoded one by
    one; this needs the package tifffile.

    Args:
        path: The file.
        num_channels: As in `images.read_image`.
        dtype: As in `images.read_image`.

    Raises:
        OSError: The file cannot be read as an image; the message names it.
    """
    name = os.fspath(path)
    with contextlib.ExitStack() as stack:
        found = _opened(stack, name, num_channels, dtype)
        yield images.read_image(path, num_channels, dtype) if found is None else found


def size(path: str | os.PathLike[str]) -> Size:
    """Height and width of an image, without reading its pixels. Raises OSError as `open_image`."""
    with contextlib.ExitStack() as stack:
        found = _opened(stack, os.fspath(path), None, None)
        if found is not None:
            return found.shape[:2]
    header = images.header(path)
    return header.height, header.width


def _opened(
    stack: contextlib.ExitStack, name: str, num_channels: int | None, dtype: str | None
) -> FileImage | None:
    try:
        file = stack.enter_context(images.open_file(name))
        start = file.read(npy.LONGEST_HEADER)
        if start.startswith(npy.MAGIC):
            header = npy.header(start, file.seek(0, os.SEEK_END))
            read = _from_npy(npy.mapped(name, start, file.tell()))
        elif start.startswith(tiff.MAGIC) and (tiff.num_pixels(file) or LARGE + 1) > LARGE:
            opened = stack.enter_context(tiff.open_file(file))
            pages, count, has_alpha = tiff.find_bands(opened)
            height, width = pages[0].imagelength, pages[0].imagewidth
            if height * width <= LARGE:
                return None
            header = bands.Header(height, width, count, pages[0].dtype.name, has_alpha)
            read = _from_tiff(pages)
        else:
            return None
        bands.check_count(header, num_channels)
    except FileNotFoundError:
        raise
    except Exception as error:  # As in `images.decode_image`.
        raise OSError(f"cannot read the image {name}: {error}") from error
    return FileImage(read, header, name, num_channels, dtype)


def _from_npy(mapped: np.ndarray) -> Read:
    def read(rows: slice, columns: slice) -> np.ndarray:
        part = np.asarray(mapped[rows, columns])
        return part.astype(part.dtype.newbyteorder("="))

    return read


def _from_tiff(pages: list[Any]) -> Read:
    """Reads from the tiles or strips of pages, each with its own bands."""
    for page in pages:
        if tiff.orientation(page) != 1:
            raise ValueError("its orientation tag rotates it: save it upright")
        if (size := int(np.prod(_tile(page))) * page.dtype.itemsize) > LARGEST_TILE:
            raise ValueError(
                f"its tiles or strips have {size} bytes, and at most {LARGEST_TILE} are read at "
                "once: save it in tiles of 512x512 pixels"
            )
    readers = [_page_reader(page) for page in pages]

    def read(rows: slice, columns: slice) -> np.ndarray:
        return np.concatenate([reader(rows, columns) for reader in readers], axis=2)

    return read


def _tile(page: Any) -> tuple[int, int, int]:
    """Height, width and channels of the tiles or strips of a page."""
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
    else:
        height, width = min(page.rowsperstrip, page.imagelength), page.imagewidth
    return height, width, page.samplesperpixel if page.planarconfig == 1 else 1


def _page_reader(page: Any) -> Read:
    height, width, depth = _tile(page)
    num_columns = ceil_div(page.imagewidth, width)
    per_plane = num_columns * ceil_div(page.imagelength, height)
    num_bytes = height * width * depth * page.dtype.itemsize

    @functools.lru_cache(maxsize=max(CACHED // num_bytes, 1))
    def decode(index: int) -> np.ndarray:
        file = page.parent.filehandle
        file.seek(page.dataoffsets[index])
        content = file.read(page.databytecounts[index])
        segment, _, shape = page.decode(content, index, jpegtables=page.jpegtables)
        if segment is None:  # A tile that is not stored is empty.
            return np.full(shape[1:], page.nodata, page.dtype)
        return segment[0].astype(page.dtype.newbyteorder("="), copy=False)

    def read(rows: slice, columns: slice) -> np.ndarray:
        shape = rows.stop - rows.start, columns.stop - columns.start, page.samplesperpixel
        part = np.empty(shape, page.dtype.newbyteorder("="))
        for row in range(rows.start // height, ceil_div(rows.stop, height)):
            for column in range(columns.start // width, ceil_div(columns.stop, width)):
                for plane in range(page.samplesperpixel // depth):
                    tile = decode(plane * per_plane + row * num_columns + column)
                    channels = slice(plane * depth, (plane + 1) * depth)
                    _copy(
                        part[:, :, channels],
                        tile,
                        row * height - rows.start,
                        column * width - columns.start,
                    )
        return part

    return read


def _copy(part: np.ndarray, tile: np.ndarray, top: int, left: int) -> None:
    """Copies the pixels of a tile, whose first one belongs at (top, left), that lie in a part."""
    y, x = max(top, 0), max(left, 0)
    source = tile[y - top : part.shape[0] - top, x - left : part.shape[1] - left]
    part[y : y + source.shape[0], x : x + source.shape[1]] = source
