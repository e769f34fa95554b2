"""Images by Pillow: opened without side effects, and decoded with their channels."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.image_files import once, pillow
from tests.image_files.files import pixels


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def image_of(mode):
    """An image of this mode, with transparency where it has one."""
    color = Image.fromarray(pixels(4, 6, 4, dtype=np.uint8))
    return color.convert("RGB").convert("P") if mode == "P" else color.convert(mode)


@pytest.mark.parametrize(
    "mode, num_channels, has_alpha",
    [
        ("1", 1, False),
        ("L", 1, False),
        ("LA", 2, True),
        ("P", 3, False),
        ("RGB", 3, False),
        ("RGBA", 4, True),
        ("CMYK", 3, False),
        ("YCbCr", 3, False),
        ("HSV", 3, False),
    ],
)
def test_channels_of_each_mode(mode, num_channels, has_alpha):
    image = image_of(mode)
    found = pillow.of_image(image)
    assert found.pixels.shape == (4, 6, num_channels) and found.has_alpha == has_alpha
    header = pillow.header(image)
    assert (header.height, header.width, header.dtype) == (4, 6, "uint8")
    assert (header.num_channels, header.has_alpha) == (num_channels, has_alpha)


def test_a_transparent_colour_is_alpha():
    grey = image_of("L")
    content = encoded(grey, transparency=int(np.asarray(grey)[0, 0]))
    found = pillow.bands(content, "a.png")
    assert found.has_alpha and found.pixels[0, 0, 1] == 0 and found.pixels[..., 1].max() == 255


def test_grey_of_16_bits_and_floating_point():
    values = pixels(4, 6)
    for kind in ("PNG", "TIFF"):
        found = pillow.bands(encoded(Image.fromarray(values), kind), "a")
        np.testing.assert_array_equal(found.pixels[..., 0], values, strict=True)
    values = pixels(4, 6, dtype=np.float32)
    found = pillow.bands(encoded(Image.fromarray(values), "TIFF"), "a")
    np.testing.assert_array_equal(found.pixels[..., 0], values, strict=True)
    with Image.open(io.BytesIO(encoded(Image.fromarray(values), "TIFF"))) as opened:
        assert pillow.header(opened).dtype == "float32"


@pytest.mark.parametrize("value", [-1, 65536])
def test_numbers_beyond_16_bits_are_refused(value):
    image = Image.fromarray(np.array([[0, value]], np.int32))
    with pytest.raises(ValueError, match="expected 16-bit values, got "):
        pillow.of_image(image)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least 1x1 pixels, got 0x6"):
        pillow.of_image(Image.new("RGB", (6, 0)))


def test_large_images_are_opened_without_a_warning(monkeypatch):
    content = encoded(image_of("RGB"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pillow.open_safely(io.BytesIO(content)) as opened:
            assert opened.size == (6, 4)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)
        with pytest.raises(OSError, match="pixels"):
            pillow.open_safely(io.BytesIO(content))


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"hello", b""])
def test_what_is_no_image_is_explained(content):
    with pytest.raises(OSError, match="PostScript, which is a program|begins with 'hello'|empty"):
        pillow.open_safely(io.BytesIO(content))


@pytest.fixture
def warned(caplog, monkeypatch):
    monkeypatch.setattr(once, "_warned", set())
    return lambda: [record.getMessage() for record in caplog.records]


def test_further_pages_and_dark_images_are_said(warned):
    pages = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    pillow.bands(encoded(pages[0], "GIF", save_all=True, append_images=pages[1:]), "a.gif")
    pillow.bands(encoded(Image.fromarray(np.array([[0, 8191]], np.uint16))), "b.png")
    pillow.bands(encoded(Image.fromarray(np.array([[0, 8192]], np.uint16))), "c.png")
    first, second = warned()
    assert first == "of GIF files with several pages only the first is read; the first one is a.gif"
    assert second.endswith("of the range look black; the first one is b.png")


def test_without_opencv_the_lost_bits_are_said(warned, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    values = pixels(4, 6, 3)
    content = cv2.imencode(".png", values[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(pillow.bands(content, "a.png").pixels, values, strict=True)
    monkeypatch.setattr(pillow, "cv2", None)
    found = pillow.bands(content, "a.png").pixels
    np.testing.assert_array_equal(found, (values >> 8).astype(np.uint8), strict=True)
    (line,) = warned()
    assert "only the upper 8 of 16 bits are read" in line and "pip install" in line
