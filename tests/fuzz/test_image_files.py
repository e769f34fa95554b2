"""Any image file is decoded, or refused with a message that names it."""

import io
import struct
import warnings
import zlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskrcnn_jax import images
from tests.fuzz import guard, mutations
from tests.image_files import files

try:
    import tifffile
except ImportError:
    tifffile = None

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)
randoms = st.randoms(use_true_random=False)


def saved(kind, image, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def written(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack", metadata=None, **options)
    return file.getvalue()


def good():
    """A file of every common format, and of the rare forms of pixels."""
    color = Image.fromarray(PIXELS)
    grey, deep = color.convert("L"), Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200)
    palette, alpha = color.convert("P"), color.convert("RGBA")
    turned = Image.Exif()
    turned[0x0112] = 6
    pages = {"save_all": True, "append_images": [color.transpose(Image.Transpose.ROTATE_180)]}
    found = {
        "jpeg": saved("JPEG", color),
        "jpeg turned": saved("JPEG", color, exif=turned),
        "jpeg progressive": saved("JPEG", grey, progressive=True),
        "jpeg cmyk": saved("JPEG", color.convert("CMYK")),
        "png": saved("PNG", color),
        "png palette": saved("PNG", palette, transparency=3),
        "png deep": saved("PNG", deep),
        "apng": saved("PNG", color, **pages),
        "gif": saved("GIF", palette, **pages),
        "tiff": saved("TIFF", color, **pages),
        "tiff packed": saved("TIFF", alpha, compression="tiff_lzw"),
        "tiff deflate": saved("TIFF", grey, compression="tiff_deflate"),
        "tiff deep": saved("TIFF", deep),
        "bmp": saved("BMP", color),
        "webp": saved("WEBP", color),
    }
    bands = np.tile(PIXELS.astype(np.uint16), 2)
    found |= {"npy": files.npy(PIXELS), "npy bands": files.npy(bands)}
    found["npy floats"] = files.npy(np.asfortranarray(bands, np.float32))
    if tifffile is not None:
        found["tiff bands"] = written(bands, planarconfig="contig")
        found["tiff planar"] = written(bands.transpose(2, 0, 1), planarconfig="separate")
        found["tiff pages"] = written(bands.transpose(2, 0, 1), compression="zlib")
        found["tiff large"] = written(bands, planarconfig="contig", tile=(16, 16), bigtiff=True)
    for kind in ("PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "JPEG2000", "ICNS", "MSP", "XBM"):
        given = color.convert("1") if kind in ("MSP", "XBM") else color
        found[kind] = saved(kind, given) if kind != "ICNS" else saved(kind, color.resize((32, 32)))
    return found


FILES = good()


def changed(rng, kind):
    content = mutations.content(rng, FILES[kind])
    return _with_checksums(content) if kind.startswith(("png", "apng")) else content


def _with_checksums(png):
    """Corrects the checksums of a PNG, without which most changes would be refused at once."""
    parts, at = [png[:8]], 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        body = png[at + 4 : at + 8 + length]
        parts += [png[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join(parts)


@given(rng=randoms, kind=st.sampled_from(sorted(FILES)))
def test_files(tmp_path, rng, kind):
    content = changed(rng, kind)
    path = tmp_path / "changed.img"
    path.write_bytes(content)
    # A header may declare any size up to the limit of Pillow; this one lets few examples through.
    with guard.limits("test_files", len(content), base=256 << 20), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of broken metadata.
        as_stored = partial(images.read_image, num_channels=None, dtype=None)
        for read in (images.check_image, as_stored, images.read_image):
            found = None
            try:
                found = read(path)
            except OSError as error:
                assert str(path) in str(error) and len(str(error)) < 1000
            else:
                size = found if isinstance(found, tuple) else found.shape[:2]
                assert min(size) > 0
        if isinstance(found, np.ndarray):
            assert found.dtype == np.uint8 and found.shape[2] == 3


@pytest.mark.parametrize("kind", sorted(FILES))
def test_the_unchanged_files_are_read(tmp_path, kind):
    (tmp_path / "good").write_bytes(FILES[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = images.read_image(tmp_path / "good", None, None).shape
        assert size[:2] == images.check_image(tmp_path / "good")
    if kind not in ("ICO", "ICNS"):  # These hold several sizes.
        assert size[:2] == ((31, 24) if kind == "jpeg turned" else (24, 31))
