"""The kind and the size of image files by their first bytes."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.image_files import headers


def tiff(bits, bands, sample_format, order="<", next_page=0):
    """The start of a TIFF of the given pixels."""
    values = {256: (4, 4), 257: (4, 4), 258: (3, bits), 277: (3, bands), 339: (3, sample_format)}
    entries = b""
    for tag, (kind, x) in values.items():
        number = struct.pack(order + "HH", x, 0) if kind == 3 else struct.pack(order + "I", x)
        entries += struct.pack(order + "HHI", tag, kind, 1) + number
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = struct.pack(order + "IH", 8, len(values))
    return start + head + entries + struct.pack(order + "I", next_page)


KINDS = {
    "empty (0 bytes): copy": b"",
    "only zeros: copy": b"\0" * 500,
    "a pointer of Git LFS: fetch": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "a web page: download": b"<!DOCTYPE html><html></html>",
    "XML, perhaps a drawing": b"<?xml version='1.0'?><svg/>",
    "a drawing (SVG): save": b"<svg xmlns='x'/>",
    "a PDF: save its pages": b"%PDF-1.7 ...",
    "PostScript, which is a program": b"%!PS-Adobe-3.0",
    "a zip archive: unpack": b"PK\x03\x04" + b"\0" * 9,
    "HEIC, as iPhones write: convert": b"\0\0\0\x24ftypheic\0\0",
    "a camera's raw file": b"\0\0\0\x18ftypcrx \0\0",
    "a video or an image that Pillow": b"\0\0\0\x18ftypisom\0\0",
    "JPEG XL: convert": b"\xff\x0a\0\0",
    "a TIFF of 5 bands of 8-bit whole numbers: save": tiff(8, 5, 1),
    "a TIFF of 3 bands of 16-bit signed numbers: save": tiff(16, 3, 2, ">"),
    "3 bands of 32-bit floating-point numbers: save": tiff(32, 3, 3),
    "a TIFF of 1 bands of 8-bit whole numbers in several pages": tiff(8, 1, 1, next_page=99),
    "a TIFF whose header is broken": b"II*\0\x08\0",
    "no format that Pillow knows": b"hello\xff\x01",
    "text, which begins with 'Not Found'": b"Not Found",
    "begins as a PNG file, but is damaged": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"x" * 99,
    "begins as a JPEG file, but is damaged": b"\xff\xd8\xff\xff\xff",
    "begins as a GIF file, but is damaged": b"GIF89a\xff",
}


@pytest.mark.parametrize("told", KINDS)
def test_other_files_are_called_what_they_are(told):
    assert told in headers.explain(KINDS[told])


def test_values_that_do_not_fit_into_the_entry():
    """Three 16-bit numbers stand elsewhere; the first one counts."""
    entries = struct.pack("<HHII", 258, 3, 3, 26) + struct.pack("<I", 0)
    content = b"II*\0" + struct.pack("<IH", 8, 1) + entries + struct.pack("<HHH", 12, 8, 8)
    assert headers.tiff_tags(io.BytesIO(content)) == ({258: 12}, False)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_after_the_rotation(kind, orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(file, kind, exif=exif)
    with Image.open(file) as opened:
        assert headers.size(opened) == ((6, 4) if orientation >= 5 else (4, 6))


def test_a_png_without_exif_data_is_not_decoded(monkeypatch):
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(file, "PNG")
    with Image.open(file) as opened:
        monkeypatch.setattr(opened, "getexif", None)
        assert headers.size(opened) == (4, 6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_that_lacks_its_end_is_cut(tmp_path, kind):
    path = tmp_path / "a"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path, kind)
    assert not headers.is_cut(path, kind)
    path.write_bytes(path.read_bytes()[:-1])
    assert headers.is_cut(path, kind) and not headers.is_cut(path, "BMP")
    path.write_bytes(b"x")
    assert headers.is_cut(path, kind) and not headers.is_cut(path, None)
