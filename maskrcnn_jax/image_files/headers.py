"""The size and the kind of image files by their first bytes, without decoding pixels."""

import io
import os
import struct

from PIL import Image

_ORIENTATION = 0x0112  # The EXIF tag of the orientation; from 5 on, width and height are swapped.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}

# The start of files that are no images, or images that Pillow does not read.
_KINDS = (
    (0, b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself (git lfs pull)"),
    (0, b"<!doctype html", "a web page: download the image itself"),
    (0, b"<html", "a web page: download the image itself"),
    (0, b"<?xml", "XML, perhaps a drawing (SVG): save it as PNG"),
    (0, b"<svg", "a drawing (SVG): save it as PNG"),
    (0, b"%pdf", "a PDF: save its pages as PNG"),
    (0, b"%!ps", "PostScript, which is a program: save it as PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript, which is a program: save it as PNG"),
    (0, b"pk\x03\x04", "a zip archive: unpack it"),
    (0, b"\xff\x0a", "JPEG XL: convert it to JPEG or PNG"),
    (4, b"ftypheic", "HEIC, as iPhones write: convert it to JPEG"),
    (4, b"ftypheix", "HEIC: convert it to JPEG"),
    (4, b"ftypmif1", "HEIF: convert it to JPEG"),
    (4, b"ftypmsf1", "HEIF: convert it to JPEG"),
    (4, b"ftypcrx ", "a camera's raw file: develop it to JPEG or PNG"),
    (4, b"ftyp", "a video or an image that Pillow does not know: convert it to JPEG"),
)

_READ = {b"\x89png\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"gif8": "GIF", b"8bps": "PSD"}


def explain(content: bytes) -> str:
    """Guesses the format of a file that Pillow cannot read, and says what to do."""
    if not content:
        return "it is empty (0 bytes): copy or download it again"
    if not content.strip(b"\0"):
        return "it has only zeros: copy or download it again"
    start = content[:64].lower()
    for offset, magic, kind in _KINDS:
        if start[offset:].startswith(magic):
            return f"it is {kind}"
    if start[:4] in (b"ii*\0", b"mm\0*"):
        return f"it is {describe_tiff(io.BytesIO(content))}: save it again, as PNG"
    for magic, kind in _READ.items():
        if start.startswith(magic):
            return f"it begins as a {kind} file, but is damaged: copy or download it again"
    if _is_text(content):
        return f"it is text, which begins with {content[:40].decode()!r}: download the image itself"
    return "it is in no format that Pillow knows"


def _is_text(content: bytes) -> bool:
    return content.isascii() and all(letter >= 32 or letter in b"\t\n\r" for letter in content)


def describe_tiff(file: io.BytesIO | io.BufferedReader) -> str:
    """Describes the pixels of a TIFF."""
    try:
        tags, has_next = tiff_tags(file)
    except (struct.error, IndexError):
        return "a TIFF whose header is broken"
    bits, bands = tags.get(258, 1), tags.get(277, 1)
    kind = {2: "signed", 3: "floating-point"}.get(tags.get(339, 1), "whole")
    pages = " in several pages" if has_next else ""
    return f"a TIFF of {bands} bands of {bits}-bit {kind} numbers{pages}"


def tiff_tags(file: io.BytesIO | io.BufferedReader) -> tuple[dict[int, int], bool]:
    """The first value of each tag of the first page of a TIFF, for whole numbers.

    Also returns whether there is a second page. BigTIFF is not read.

    Raises:
        struct.error: The header is broken.
    """

    def unpack(layout: str, at: int) -> tuple[int, ...]:
        file.seek(at)
        return struct.unpack(order + layout, file.read(struct.calcsize(order + layout)))

    file.seek(0)
    order = "<" if file.read(1) == b"I" else ">"
    (offset,) = unpack("I", 4)
    (count,) = unpack("H", offset)
    tags = {}
    for i in range(count):
        at = offset + 2 + 12 * i
        tag, kind, number = unpack("HHI", at)
        if kind == 3 and number > 2:  # 16-bit numbers that do not fit into the entry.
            tags[tag] = unpack("H", unpack("I", at + 8)[0])[0]
        elif kind in (3, 4):
            tags[tag] = unpack("HI"[kind - 3], at + 8)[0]
    return tags, unpack("I", offset + 2 + 12 * count) != (0,)


def size(opened: Image.Image) -> tuple[int, int]:
    """Height and width of an opened image after its EXIF rotation, from its header."""
    width, height = opened.size
    if opened.format == "PNG" and "exif" not in opened.info:
        return height, width  # Pillow would decode the pixels to look for EXIF data behind them.
    swapped = opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if swapped else (height, width)


def is_cut(path: str | os.PathLike[str], kind: str | None) -> bool:
    """Whether a file lacks the end that its format asks for. Few whole files lack it.

    Args:
        path: The file.
        kind: Pillow's name of the format.
    """
    end = _ENDS.get(kind or "")
    if end is None:
        return False
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - len(end), 0))
        return file.read() != end
