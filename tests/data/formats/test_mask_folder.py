"""Folders of instance masks."""

import numpy as np
import pytest
from PIL import Image

from tests.data.formats.examples import box, convert, equal, photo, png

FIRST, SECOND = box(0, 0, 20, 10), box(30, 10, 50, 30) | box(55, 35, 60, 40)


def palette(ids):
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette([7] * 768)  # Colours do not tell ids apart.
    return image


FORMS = {
    "grey": lambda ids: Image.fromarray(ids),
    "palette": palette,
    "16 bits": lambda ids: Image.fromarray(ids.astype(np.uint16) * 257),
    "colours": lambda ids: Image.fromarray(
        np.stack([ids == 2, ids * 0, ids == 1], 2).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_ids(tmp_path, form):
    photo(tmp_path / "photos" / "a.JPG")
    (tmp_path / "in").mkdir()
    FORMS[form](FIRST + 2 * SECOND).save(tmp_path / "in" / "a.png")
    found, lines = convert(tmp_path / "in", tmp_path, images=tmp_path / "photos")
    assert equal(found, {"a.JPG": {"object": [FIRST, SECOND]}}) and lines == []


@pytest.mark.parametrize("beside", [True, False])
def test_a_mask_for_each_object(tmp_path, beside):
    top, images = tmp_path / "in", tmp_path / "photos"
    if beside:
        photo(top / "x1" / "images" / "x1.png")
        (top / "x1" / "masks").mkdir()
    else:
        photo(images / "x1.png")
    masks = top / "x1" / "masks" if beside else top / "x1"
    png(masks / "m1.png", FIRST * 255)
    png(masks / "m2.png", SECOND * np.where(np.arange(60) % 2, 128, 255).astype(np.uint8))
    png(masks / "m3.png", FIRST * 0)
    png(masks / "m4.png", box(0, 0, 5, 5, height=9))
    (masks / "m5.png").write_text("no picture")
    found, lines = convert(top, tmp_path, images=None if beside else images)
    name = "x1/images/x1.png" if beside else "x1.png"
    assert equal(found, {name: {"object": [FIRST, SECOND]}})
    assert "objects left out, whose mask covers no pixel: object m3.png of x1" in lines
    assert (
        "objects left out, whose mask is of another size than the image: object m4.png of x1"
        in lines
    )
    assert "objects left out, whose mask cannot be read: object m5.png of x1" in lines


def test_odd_masks_of_ids(tmp_path):
    for name in ("a", "b", "c", "d"):
        photo(tmp_path / "photos" / f"{name}.jpg")
    photo(tmp_path / "photos" / "photo.jpg", 80, 80)
    top = tmp_path / "in"
    png(top / "a.png", FIRST * 255)
    png(top / "b.png", FIRST[:9])
    png(top / "c.png", FIRST * 0)
    (top / "d.png").write_text("no picture")
    png(top / "e.png", FIRST)
    png(top / "photo.png", np.arange(80 * 80, dtype=np.uint16).reshape(80, 80))
    found, lines = convert(top, tmp_path, images=tmp_path / "photos")
    assert equal(found, {"a.jpg": {"object": [FIRST]}, "c.jpg": {}})
    text = "\n".join(lines)
    assert "0 and 255 only, which make one object: image a.png" in text
    assert "another size than that of the file: image b.jpg (b.png)" in text
    assert "whose mask cannot be read: image d.png" in text
    assert "whose file is not in" in text and "image e (e.png)" in text
    assert "and is no mask of ids: image photo.png" in text and len(lines) == 5


def test_masks_that_are_no_ids(tmp_path):
    """Grey with alpha is refused, alpha of colours is dropped, half a file cannot be read."""
    for name in ("a", "b", "c", "d"):
        photo(tmp_path / "photos" / f"{name}.jpg")
    top = tmp_path / "in"
    png(top / "a.png", np.stack([FIRST, FIRST], axis=2))
    clear = np.zeros((*FIRST.shape, 4), np.uint8)
    clear[..., 0], clear[..., 3] = FIRST, 9 * SECOND
    png(top / "b.png", clear)
    png(top / "c.png", FIRST)
    (top / "c.png").write_bytes((top / "c.png").read_bytes()[:60])
    (top / "d").mkdir()
    found, lines = convert(top, tmp_path, images=tmp_path / "photos")
    assert equal(found, {"b.jpg": {"object": [FIRST]}, "d.jpg": {}})
    assert lines[0].startswith("2 images left out, whose mask cannot be read: image a.png, c.png")
    assert "images with a folder without masks" in lines[1] and lines[1].endswith("image d")


def test_the_images_have_to_be_somewhere(tmp_path):
    png(tmp_path / "in" / "a.png", FIRST)
    with pytest.raises(ValueError, match="--images DIR has to say where the images"):
        convert(tmp_path / "in", tmp_path)
