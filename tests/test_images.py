"""Images as arrays: files, arrays and Pillow images of all kinds, and what is refused."""

import io
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import images, resizing
from maskrcnn_jax.image_files import once


def save(path, array, **options):
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def slow_resize(image, size):
    """Applies the bilinear rule pixel by pixel, with float32 coordinates as in PyTorch."""
    values = image / 255 if image.dtype == np.uint8 else image.astype(np.float64)
    out = np.zeros((*size, image.shape[2]))

    def neighbours(i, num_inputs, num_outputs):
        ratio = np.float64(np.float32(num_inputs / num_outputs))
        source = max(np.float32((i + 0.5) * ratio - 0.5), np.float32(0))  # Round only once.
        first = min(int(source), num_inputs - 1)
        return first, min(first + 1, num_inputs - 1), float(source) - first

    for i in range(size[0]):
        y0, y1, wy = neighbours(i, image.shape[0], size[0])
        for j in range(size[1]):
            x0, x1, wx = neighbours(j, image.shape[1], size[1])
            top = values[y0, x0] * (1 - wx) + values[y0, x1] * wx
            bottom = values[y1, x0] * (1 - wx) + values[y1, x1] * wx
            out[i, j] = top * (1 - wy) + bottom * wy
    return out


def test_reads_rgb_and_drops_alpha_without_blending(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgba[0, 0, 3] = 0
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "a.png", rgba)), rgba[:, :, :3])
    np.testing.assert_array_equal(
        images.read_image(str(save(tmp_path / "b.png", rgba[:, :, :3]))), rgba[:, :, :3]
    )


def test_reads_grey_with_and_without_alpha(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    expected = np.stack([grey] * 3, axis=2)
    np.testing.assert_array_equal(images.read_image(save(tmp_path / "a.png", grey)), expected)
    Image.fromarray(grey).convert("LA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "b.png"), expected)
    save(tmp_path / "c.png", grey > 100)
    np.testing.assert_array_equal(images.read_image(tmp_path / "c.png"), 255 * (expected > 100))


@pytest.mark.parametrize(
    "options", [{}, {"transparency": 1}, {"transparency": bytes([0, 128, 255])}]
)
def test_reads_palettes_without_a_warning(tmp_path, options):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "p.png", **options)
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(images.read_image(tmp_path / "p.png"), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_divides_16_bit_values_by_257(tmp_path, name):
    values = np.array([[0, 128, 129], [257 * 100, 65535, 257 * 7 + 128]], np.uint16)
    expected = np.array([[0, 0, 1], [100, 255, 7]])
    image = images.read_image(save(tmp_path / name, values))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.stack([expected] * 3, axis=2))


def test_applies_the_exif_rotation(tmp_path):
    array = np.zeros((2, 3, 3), np.uint8)
    array[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotate clockwise: the first row becomes the last column.
    image = images.read_image(save(tmp_path / "a.png", array, exif=exif))
    assert image.shape == (3, 2, 3)
    assert image[0, 1].tolist() == [255, 255, 255] and image.sum() == 3 * 255


def test_a_missing_file_and_a_broken_one_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        images.read_image(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(OSError, match="text.png"):
        images.read_image(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.png", "cut.jpg"):
        content = save(tmp_path / name, noise).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(OSError, match=name):
            images.read_image(tmp_path / name)


LARGE = """
import sys
import numpy as np
from PIL import Image
from maskrcnn_jax import images
from tests.artifacts.test_export import red_detector

square = Image.new("1", (9500, 9500))
square.paste(1, (2500, 4500, 7500, 9500))
square.save(sys.argv[1])
image = images.load(sys.argv[1])
assert image.shape == (9500, 9500, 3) and image.dtype == np.uint8
found = red_detector()(image, masks="rle")[0]
np.testing.assert_allclose(found["boxes"][0], [2500, 4500, 7500, 9500], atol=160)
assert found["masks"][0]["size"] == [9500, 9500]
"""


def test_an_image_of_90_megapixels_goes_through_without_a_warning(tmp_path):
    """Pillow warns from 89.5 megapixels on.

    This needs its own process, because pytest sets warning filters for each test.
    """
    command = [sys.executable, "-c", LARGE, tmp_path / "large.png"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr


IMPORT = """
import warnings
import cv2

cv2.setNumThreads(5)
before = list(warnings.filters)
from maskrcnn_jax import images
from maskrcnn_jax.data import pipeline
assert cv2.getNumThreads() == 5, cv2.getNumThreads()
assert warnings.filters == before, set(warnings.filters) - set(before)
images.decode_image(open("{}", "rb").read())
assert warnings.filters == before
images.use_one_thread()
assert cv2.getNumThreads() == 1
"""


def test_importing_sets_nothing_for_the_whole_process(tmp_path):
    pytest.importorskip("cv2")
    path = save(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    command = [sys.executable, "-c", IMPORT.format(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_pillow_takes_for_a_bomb_is_refused_with_advice(tmp_path):
    Image.new("1", (14_000, 14_000)).save(tmp_path / "huge.png")
    message = (
        r"huge\.png: Image size \(196000000 pixels\) exceeds limit of 178956970 pixels: "
        "cut it into parts"
    )
    with pytest.raises(OSError, match=message):
        images.read_image(tmp_path / "huge.png")


def test_an_image_that_memory_cannot_hold_is_named(tmp_path, monkeypatch):
    def no_memory(image):
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", no_memory)
    with pytest.raises(
        OSError, match=r"a\.png: there is not enough memory for its pixels: cut it into parts"
    ):
        images.read_image(save(tmp_path / "a.png", np.zeros((4, 5), np.uint8)))


def jpeg_kinds():
    """Yields JPEG files that decoders treat differently, with images of odd sizes."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (37, 51, 3), np.uint8)
    grey = rng.integers(0, 256, (37, 51), np.uint8)
    smooth = np.linspace(0, 255, 61 * 43 * 3).reshape(61, 43, 3).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 8
    kinds = [
        (Image.fromarray(colors), {"subsampling": 0}),
        (Image.fromarray(colors), {"subsampling": 1}),
        (Image.fromarray(smooth), {"subsampling": 2, "quality": 30}),
        (Image.fromarray(smooth), {"progressive": True}),
        (Image.fromarray(colors), {"keep_rgb": True}),
        (Image.fromarray(colors), {"restart_marker_rows": 1}),
        (Image.fromarray(colors), {"exif": turned}),
        (Image.fromarray(grey), {}),
        (Image.fromarray(colors).convert("CMYK"), {}),
    ]
    for image, options in kinds:
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        yield file.getvalue()


def test_opencv_decodes_to_the_same_pixels(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    contents = list(jpeg_kinds())
    contents.append(contents[0] + b"something behind the image")
    fast = [images.decode_image(content) for content in contents]
    for content in contents:
        with pytest.raises(OSError, match="(?i)truncated"):
            images.decode_image(content[: len(content) // 2])
    monkeypatch.setattr(images, "cv2", None)
    for content, pixels in zip(contents, fast, strict=True):
        np.testing.assert_array_equal(pixels, images.decode_image(content))
    decoded = []
    monkeypatch.setattr(images, "cv2", cv2)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: decoded.append(arguments))
    for content, pixels in zip(contents, fast, strict=True):
        # Pillow decodes the files that OpenCV cannot read.
        np.testing.assert_array_equal(images.decode_image(content), pixels)
    assert len(decoded) == 7


def test_opencv_and_pillow_read_the_same_photographs(shared, monkeypatch):
    pytest.importorskip("cv2")
    paths = sorted((shared / "data" / "coco_subset" / "val").iterdir())[:8]
    fast = [images.read_image(path) for path in paths]
    monkeypatch.setattr(images, "cv2", None)
    for path, pixels in zip(paths, fast, strict=True):
        np.testing.assert_array_equal(pixels, images.read_image(path))


def test_content_that_is_no_image():
    with pytest.raises(OSError, match="it is text, which begins with 'no image'"):
        images.decode_image(b"no image")


def test_floating_point_beyond_1_and_32_bit_files_are_refused(tmp_path):
    grey = np.array([[0, 0.5, 1]], np.float32)
    white = images.read_image(save(tmp_path / "f.tif", grey))
    assert white.dtype == np.uint8 and white[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(OSError, match="f.tif.*from 0 to 2: data.image_dtype=float32 takes them"):
        images.read_image(save(tmp_path / "f.tif", 2 * grey))
    with pytest.raises(OSError, match="i.tif.*got 0 to 70000"):
        images.read_image(save(tmp_path / "i.tif", np.array([[0, 70000]], np.int32)))


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_an_image_of_pillows_without_pixels_is_refused(mode):
    with pytest.raises(ValueError, match="at least 1x1 pixels, got 0x3"):
        images.load(Image.new(mode, (3, 0)))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_as_rgb(shape, dtype):
    values = np.random.default_rng(0).integers(0, 256, shape)
    image = {np.uint8: values, np.uint16: values * 257, np.float64: values / 255}[dtype]
    rgb = images.as_rgb(image.astype(dtype))
    assert rgb.shape == (4, 5, 3)
    assert rgb.dtype == (np.float32 if dtype is np.float64 else np.uint8)
    planes = values.reshape(4, 5, -1)
    blue = planes[:, :, 0] if planes.shape[2] == 1 else planes[:, :, 2]
    expected = blue / 255 if dtype is np.float64 else blue
    np.testing.assert_allclose(rgb[:, :, 2], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((3, 4, 5), np.uint8), r"got \(3, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"got \(1, 4, 5, 3\)"),
        (np.zeros((4, 5, 3), np.int64), "got int64"),
        (np.zeros((4, 5), bool), "got bool"),
        (np.full((4, 5, 3), 1.5), "got 1.5 to 1.5"),
        (np.full((4, 5, 3), -0.5, np.float32), "got -0.5"),
        (np.full((4, 5, 3), np.nan), "got nan"),
    ],
)
def test_as_rgb_says_what_it_got(image, message):
    with pytest.raises(ValueError, match=message):
        images.as_rgb(image)


@pytest.mark.parametrize(
    "size, target", [((48, 64), (80, 106)), ((120, 90), (40, 33)), ((30, 30), (30, 30))]
)
@pytest.mark.parametrize("with_opencv", [True, False])
def test_training_resizes_within_one_grey_level(monkeypatch, size, target, with_opencv):
    if with_opencv:
        pytest.importorskip("cv2")
    else:
        monkeypatch.setattr(images, "cv2", None)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    resized = resizing.resize_rounded(image[:, ::-1], target)  # A flipped view is not contiguous.
    assert resized.dtype == np.uint8
    assert np.abs(resized - 255 * slow_resize(image[:, ::-1], target)).max() <= 1


@pytest.mark.parametrize("num_channels", [1, 2, 4, 6])
@pytest.mark.parametrize("with_opencv", [True, False])
def test_resize_uint8_takes_any_number_of_channels(monkeypatch, num_channels, with_opencv):
    if with_opencv:
        pytest.importorskip("cv2")
    else:
        monkeypatch.setattr(images, "cv2", None)
    image = np.random.default_rng(0).integers(0, 256, (12, 10, num_channels), dtype=np.uint8)
    for size in ((18, 30), (7, 5)):
        resized = resizing.resize_rounded(image, size)
        assert resized.shape == (*size, num_channels)
        assert np.abs(resized - 255 * slow_resize(image, size)).max() <= 1


# Files that are no images of ours are called what they are.


def tiff(bits, bands, sample_format):
    """The start of a little-endian TIFF of the given pixels."""
    values = {256: (4, 4), 257: (4, 4), 258: (3, bits), 277: (3, bands), 339: (3, sample_format)}
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, x) for tag, (kind, x) in values.items())
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + b"\0" * 4


OTHERS = {
    "it is empty": b"",
    "it has only zeros": b"\0" * 500,
    "a pointer of Git LFS: fetch": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "a web page: download": b"<!DOCTYPE html><html></html>",
    "a PDF: save its pages": b"%PDF-1.7 ...",
    "HEIC, as iPhones write: convert": b"\0\0\0\x24ftypheic\0\0",
    "JPEG XL: convert": b"\xff\x0a\0\0",
    "a TIFF of 5 bands of 8-bit whole numbers, which the package tifffile": tiff(8, 5, 1),
    "a TIFF of 3 bands of 16-bit signed numbers, which": tiff(16, 3, 2),
    "a TIFF of 3 bands of 32-bit floating-point numbers, which": tiff(32, 3, 3),
    "no format that Pillow knows": b"hello\xff\x01",
    "text, which begins with 'Not Found'": b"Not Found",
    """text, which begins with '{"error": 404}'""": b'{"error": 404}',
    "begins as a PNG file, but is damaged": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"x" * 99,
    "begins as a JPEG file, but is damaged": b"\xff\xd8\xff\xff\xff",
}


@pytest.mark.parametrize("message", OTHERS)
def test_what_is_no_image_is_explained(tmp_path, monkeypatch, message):
    monkeypatch.setitem(sys.modules, "tifffile", None)  # As if it were not installed.
    path = tmp_path / "a.jpg"
    path.write_bytes(OTHERS[message])
    for read in (images.read_image, images.check_image):
        with pytest.raises(OSError, match=f"a.jpg: .*{re.escape(message)}"):
            read(path)


def test_the_header_gives_the_size_after_the_rotation(tmp_path):
    array = np.zeros((4, 6, 3), np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name in ("a.jpg", "a.png", "a.webp"):
            path = save(tmp_path / name, array, exif=exif)
            assert images.check_image(path) == images.read_image(path).shape[:2]


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_file_without_its_end_is_decoded(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / name, noise)
    content = path.read_bytes()
    path.write_bytes(content + b"something behind the image")
    assert images.check_image(path) == (64, 64)
    path.write_bytes(content[:-200])
    with pytest.raises(OSError, match=name):
        images.check_image(path)


def test_a_header_is_read_without_the_pixels(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((8, 9), np.uint8))
    monkeypatch.setattr(images, "read_image", None)
    assert images.check_image(path) == (8, 9)


@pytest.mark.parametrize(
    "brightest, warns", [(4095, True), (8191, True), (8192, False), (65535, False)]
)
def test_dark_16_bit_images_are_said_once(tmp_path, caplog, monkeypatch, brightest, warns):
    monkeypatch.setattr(once, "_warned", set())
    values = np.array([[0, brightest]], np.uint16)
    for name in ("a.png", "b.png"):
        images.read_image(save(tmp_path / name, values))
    assert [("a.png" in x.getMessage()) for x in caplog.records] == [True] * warns


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_further_pages_are_said_once(tmp_path, caplog, monkeypatch, suffix):
    monkeypatch.setattr(once, "_warned", set())
    pages = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for name in ("a", "b"):
        pages[0].save(tmp_path / f"{name}.{suffix}", save_all=True, append_images=pages[1:])
        image = images.read_image(tmp_path / f"{name}.{suffix}")
        assert image[0, 0, 0] > 200 and image[0, 0, 2] < 60
    (record,) = caplog.records
    assert "only the first is read; the first one is" in record.getMessage()


def test_bfloat16_is_floating_point():
    image = np.full((2, 2, 3), 0.5, ml_dtypes.bfloat16)
    assert images.as_rgb(image).dtype == np.float32
    with pytest.raises(ValueError, match="divide by 255"):
        images.as_rgb((image * 100).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("address", ["https://x.org/a.jpg", "gs://bucket/a.jpg"])
def test_an_address_is_no_path(address):
    with pytest.raises(FileNotFoundError, match="is an address: download the file first"):
        images.load(address)


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0", b"\xc5\xd0\xd3\xc6" + bytes(28)])
def test_no_program_is_started_for_an_image(tmp_path, monkeypatch, start):
    """Pillow draws PostScript with Ghostscript."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    content = start + b"\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    (tmp_path / "drawing.png").write_bytes(content)
    for read in (images.read_image, images.check_image):
        with pytest.raises(OSError, match="PostScript, which is a program"):
            read(tmp_path / "drawing.png")
    assert not (tmp_path / "started").exists()


def test_devices_and_pipes_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "zero.png", "folder.png"):
        for read in (images.read_image, images.check_image):
            with pytest.raises(OSError, match=f"{name}.*not a file"):
                read(tmp_path / name)
