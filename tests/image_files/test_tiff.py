import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import images
from maskrcnn_jax.image_files import once, tiff
from tests.image_files.files import pixels

tifffile = pytest.importorskip("tifffile")


def write(path, array, **options):
    options = {"photometric": "minisblack", "metadata": None} | options
    tifffile.imwrite(path, array, **options)
    return path


def expect(path, expected, dtype=None):
    """Compares the pixels and the header of a file."""
    count = expected.shape[2]
    read = images.read_image(path, count, dtype)
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == expected.dtype
    assert images.check_image(path, count) == expected.shape[:2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("bigtiff", [False, True])
def test_bands_side_by_side(tmp_path, dtype, byteorder, bigtiff):
    array = pixels(20, 30, 13, dtype=dtype)
    path = write(
        tmp_path / "a.tif", array, planarconfig="contig", byteorder=byteorder, bigtiff=bigtiff
    )
    expect(path, array)


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 3}]
)
def test_bands_one_after_the_other(tmp_path, options):
    array = pixels(4, 20, 30)
    path = write(tmp_path / "a.tif", array, planarconfig="separate", **options)
    expect(path, array.transpose(1, 2, 0))


@pytest.mark.parametrize("count", [2, 13])
def test_a_band_in_each_page(tmp_path, count):
    array = pixels(count, 20, 30)
    expect(write(tmp_path / "a.tif", array), array.transpose(1, 2, 0))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_colours_of_more_than_8_bits(tmp_path, dtype):
    array = pixels(20, 30, 3, dtype=dtype)
    kept = array if dtype == np.uint16 else array.astype(np.float32)
    expect(write(tmp_path / "a.tif", array, photometric="rgb"), kept)


@pytest.mark.parametrize("kind, alpha", [(0, False), (2, True)])
def test_the_fourth_band_is_alpha_if_the_file_says_so(tmp_path, kind, alpha):
    array = pixels(20, 30, 4, dtype=np.uint8)
    path = write(tmp_path / "a.tif", array, photometric="rgb", extrasamples=[kind])
    expect(path, array)
    if alpha:
        np.testing.assert_array_equal(images.read_image(path), array[:, :, :3])
        assert images.check_image(path, 3) == (20, 30)
        return
    for read in (images.read_image, images.check_image):
        with pytest.raises(OSError, match="a.tif: it has 4 channels; expected 3"):
            read(path, 3)


def test_smaller_copies_and_masks_are_no_bands(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(once, "_warned", set())
    array, path = pixels(20, 30), tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(array, photometric="minisblack")
        file.write(array, photometric="minisblack", subfiletype=1)
        file.write(array[::2, ::2], photometric="minisblack")
    expect(path, array[:, :, None])
    (record,) = caplog.records
    assert "several pages not all are read; the first one is" in record.getMessage()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_as_pillow_does(tmp_path, orientation):
    grey = pixels(5, 7, dtype=np.uint8)
    tag = [(274, "H", 1, orientation, True)]
    path = write(tmp_path / "a.tif", np.stack([grey, grey]), extratags=tag)
    Image.fromarray(grey).save(tmp_path / "b.tif", tiffinfo={274: orientation})
    turned = images.read_image(tmp_path / "b.tif", 1)
    expect(path, np.concatenate([turned, turned], axis=2))


def test_what_pillow_reads_needs_no_other_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    color = pixels(20, 30, 3, dtype=np.uint8)
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK"):
        Image.fromarray(color).convert(mode).save(tmp_path / "a.tif")
        assert images.read_image(tmp_path / "a.tif").shape == (20, 30, 3), mode
    for array in (pixels(20, 30), pixels(20, 30, dtype=np.float32)):
        Image.fromarray(array).save(tmp_path / "a.tif")
        assert images.read_image(tmp_path / "a.tif", 1, "float32").shape == (20, 30, 1)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", pixels(20, 30, 13), planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    install = r"13 bands of 16-bit whole numbers, .* pip install 'maskrcnn-jax\[tiff\]'"
    for read in (images.read_image, images.check_image):
        with pytest.raises(OSError, match=f"a.tif: it is a TIFF of {install}"):
            read(path)


def test_a_file_that_is_cut_off(tmp_path):
    for options in ({}, {"compression": "zlib"}):
        path = write(tmp_path / "a.tif", pixels(20, 30, 13), planarconfig="contig", **options)
        path.write_bytes(path.read_bytes()[:-40])
        for read in (images.read_image, images.check_image):
            with pytest.raises(OSError, match="a.tif: it is cut off: it has"):
                read(path)


def changed(tag, value):
    """A file whose first page has another value of a tag of 32 or 16 bits."""
    file = io.BytesIO()
    write(file, pixels(20, 30, 13), planarconfig="contig", byteorder="<")
    content = bytearray(file.getvalue())
    (offset,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, offset)
    for at in range(offset + 2, offset + 2 + 12 * count, 12):
        number, kind = struct.unpack_from("<HH", content, at)
        if number == tag:
            struct.pack_into("<I" if kind == 4 else "<H", content, at + 8, value)
    return bytes(content)


LIES = {
    "exceeds limit": changed(256, 60_000) and changed(257, 2**31 - 1),
    "Image size .* exceeds": changed(256, 2**31 - 1),
    "at least 1x1 pixels, got 20x0": changed(256, 0),
    "failed to read": changed(257, 900),
    "failed to read 72000000": changed(277, 60_000),
    "a TIFF of 13 bands": changed(262, 3),
}


@pytest.mark.parametrize("message", LIES)
def test_a_header_that_lies(tmp_path, message):
    path = tmp_path / "a.tif"
    path.write_bytes(LIES[message])
    with pytest.raises(OSError, match=f"a.tif: .*{message}"):
        images.read_image(path, 13)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.complex64])
def test_other_numbers_are_refused(tmp_path, dtype):
    path = write(tmp_path / "a.tif", np.ones((3, 8, 9), dtype))
    with pytest.raises(OSError, match=f"a.tif: .*{np.dtype(dtype).name}: save it as uint8"):
        images.read_image(path)


def test_grey_values_where_0_is_white_are_refused(tmp_path):
    path = write(tmp_path / "a.tif", pixels(20, 30), photometric="miniswhite", bigtiff=True)
    with pytest.raises(OSError, match="a.tif: .*neither grey values nor bands"):
        images.read_image(path)


def test_no_other_file_is_opened(tmp_path):
    """The description of an OME-TIFF names the files of its other pages."""
    part = write(tmp_path / "other.tif", pixels(20, 30))
    ome = f"""<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
    <Image ID="Image:0"><Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="2" SizeT="1" SizeX="30"
    SizeY="20" SizeZ="1" Type="uint16"><TiffData FirstC="1" IFD="0"><UUID FileName="{part.name}">
    urn:uuid:1</UUID></TiffData></Pixels></Image></OME>"""
    path = write(tmp_path / "a.ome.tif", pixels(2, 20, 30), description=ome)
    part.unlink()
    assert images.read_image(path, 2, None).shape == (20, 30, 2)


def test_only_tiffs_are_asked():
    for content in (b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*" + bytes(4)):
        assert not tiff.is_needed(io.BytesIO(content))
