"""Windows of image files against the whole images."""

import numpy as np
import pytest

from maskrcnn_jax import images
from maskrcnn_jax.tiling import files

tifffile = pytest.importorskip("tifffile")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(files, "LARGE", 0)


def pixels(size=(70, 90), channels=3, dtype="uint8"):
    random = np.random.default_rng(0).integers(0, 256, (*size, channels))
    return random.astype(dtype) if dtype != "uint16" else (random * 257).astype(dtype)


WINDOWS = [(0, 16, 0, 16), (5, 60, 31, 90), (69, 70, 0, 90), (0, 70, 0, 90), (15, 17, 47, 49)]


def check(path, channels=3, dtype="uint8"):
    """Each window equals that part of the image as it is read whole."""
    whole = images.read_image(path, channels, dtype)
    with files.open_image(path, channels, dtype) as opened:
        assert isinstance(opened, files.FileImage) and opened.shape == whole.shape
        for top, bottom, left, right in WINDOWS:
            part = opened[top:bottom, left:right]
            np.testing.assert_array_equal(part, whole[top:bottom, left:right])
            assert part.dtype == whole.dtype


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("tile", [(16, 32), None])
def test_tiffs(tmp_path, channels, layout, tile):
    array = pixels(channels=channels)
    if layout == "separate":
        array = np.moveaxis(array, 2, 0)
    if channels == 1:
        array = array.reshape(70, 90)
    settings = {"tile": tile} if tile else {"rowsperstrip": 7}
    is_rgb = channels in (3, 4)
    tifffile.imwrite(
        tmp_path / "a.tif",
        array,
        photometric="rgb" if is_rgb else "minisblack",
        planarconfig=None if channels == 1 else layout,
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression="zlib",
        **settings,
    )
    check(tmp_path / "a.tif", channels)
    if channels in (1, 4):
        check(tmp_path / "a.tif", 3)  # Grey is repeated, alpha is dropped.


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("stored", "taken"), [("uint16", "uint8"), ("uint16", "float32")])
def test_16_bits_in_both_orders_of_bytes(tmp_path, order, stored, taken):
    array = pixels(channels=5, dtype=stored).astype(np.dtype(stored).newbyteorder(order))
    path = tmp_path / "a.tif"
    settings = {"photometric": "minisblack", "planarconfig": "contig", "byteorder": order}
    tifffile.imwrite(path, array, tile=(32, 32), **settings)
    check(path, 5, taken)


def test_pages_are_bands_and_big_tiffs_are_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as writer:
        for channel in range(4):
            writer.write(pixels()[..., channel % 3], photometric="minisblack", tile=(16, 16))
    check(tmp_path / "a.tif", 4)


@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("order", "CF")
def test_npy(tmp_path, channels, order):
    np.save(tmp_path / "a.npy", np.asarray(pixels(channels=channels), order=order))
    check(tmp_path / "a.npy", channels)


def test_small_images_and_other_formats_are_read_whole(tmp_path, monkeypatch):
    from PIL import Image

    Image.fromarray(pixels()).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", pixels(), tile=(16, 16))
    with files.open_image(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(opened, pixels())
    monkeypatch.setattr(files, "LARGE", 70 * 90)
    with files.open_image(tmp_path / "a.tif") as opened:
        assert isinstance(opened, np.ndarray)


def test_a_tile_is_decoded_once(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", pixels(), tile=(16, 16), compression="zlib")
    with files.open_image(tmp_path / "a.tif") as opened:
        first = opened[0:16, 0:16]
        monkeypatch.setattr(tifffile.TiffPage, "decode", None)
        np.testing.assert_array_equal(opened[0:16, 0:16], first)


def test_what_is_wrong_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    settings = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(path, pixels(channels=5), tile=(16, 16), **settings)
    with (
        pytest.raises(OSError, match=r"a\.tif: it has 5 channels; expected 3"),
        files.open_image(path),
    ):
        pass
    content = path.read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[:-2000])
    with (
        pytest.raises(OSError, match=r"cut\.tif"),
        files.open_image(tmp_path / "cut.tif", 5),
    ):
        pass
    with pytest.raises(FileNotFoundError), files.open_image(tmp_path / "absent.tif"):
        pass
    tifffile.imwrite(path, pixels(), tile=(16, 16), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as opened:
        offset = opened.pages[0].dataoffsets[2]
    content[offset : offset + 40] = bytes(40)
    path.write_bytes(content)
    with (
        files.open_image(path) as opened,
        pytest.raises(OSError, match=r"rows and columns 0 to 16, 32 to 48 of .*a\.tif"),
    ):
        opened[0:16, 32:48]
    tifffile.imwrite(path, pixels(), rowsperstrip=70, compression="zlib")
    monkeypatch.setattr(files, "LARGEST_TILE", 1000)
    with pytest.raises(OSError, match=r"18900 bytes.*tiles of 512x512"), files.open_image(path):
        pass
    tifffile.imwrite(path, pixels(), tile=(16, 16), extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(OSError, match="upright"), files.open_image(path):
        pass
