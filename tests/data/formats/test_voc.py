"""Pascal VOC's masks of objects and classes."""

import numpy as np
import pytest
from PIL import Image

from tests.data.formats.examples import box, convert, equal, photo, png


@pytest.fixture
def voc(tmp_path):
    """Two objects of class 15, and one of class 8 that is cut in two."""
    top = tmp_path / "in"
    objects = (
        box(0, 0, 20, 10) + 2 * box(30, 10, 50, 30) + 3 * (box(0, 20, 9, 30) | box(55, 0, 60, 9))
    )
    classes = 15 * (objects < 3) * (objects > 0) + 8 * (objects == 3)
    objects[12:14], classes[12:14] = 255, 255
    for name, values in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(list(range(256)) * 3)
        (top / name).mkdir(parents=True)
        image.save(top / name / "2007_1.png")
    photo(top / "JPEGImages" / "2007_1.jpg")
    return top


def test_masks(voc, tmp_path):
    found, lines = convert(voc, tmp_path)
    second = box(30, 10, 50, 30)
    second[12:14] = 0
    expected = {
        "person": [box(0, 0, 20, 10), second],
        "cat": [box(0, 20, 9, 30) | box(55, 0, 60, 9)],
    }
    assert equal(found, {"2007_1.jpg": expected}) and lines == []


def change(top, name, function):
    path = top / name / "2007_1.png"
    with Image.open(path) as image:
        values = np.array(image)
    png(path, function(values))


def test_objects_without_one_class(voc, tmp_path):
    def spoil(classes):
        classes[0, :5] = 8  # Of the first object.
        classes[14:30, 30:50] = 255  # All of the second.
        classes[10:12, 30:50] = 0
        classes[classes == 8] = 30
        classes[0, :5] = 8
        return classes

    change(voc, "SegmentationClass", spoil)
    found, lines = convert(voc, tmp_path)
    assert equal(found, {"2007_1.jpg": {"person": [box(0, 0, 20, 10)]}})
    text = "\n".join(lines)
    assert "several classes; most pixels decide: object id 1 of" in text
    assert "which have no class: object id 2 of" in text
    assert "whose class id is none of" in text and text.count("\n") == 2


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "class_names.txt",
            "__ignore__\n_background_\n" + "x\n" * 0 + "\n".join("abcdefghijklmnop"),
        ),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
            + "\n".join(f"{x}:1,2,3::" for x in "abcdefghijklmnop"),
        ),
    ],
)
def test_other_names(voc, tmp_path, name, text):
    (voc / name).write_text(text)
    found, lines = convert(voc, tmp_path)
    assert {k: len(v) for k, v in found["2007_1.jpg"].items()} == {"o": 2, "h": 1} and lines == []
    (voc / name).write_text("background\n")
    with pytest.raises(ValueError, match=f"{name}: expected background and different classes"):
        convert(voc, tmp_path)


@pytest.mark.parametrize("text", ["", "# label:color_rgb:parts:actions\n", "__ignore__\n"])
def test_a_list_without_names_is_refused(voc, tmp_path, text):
    (voc / "labelmap.txt").write_text(text)
    with pytest.raises(ValueError, match="labelmap.txt: expected background and different classes"):
        convert(voc, tmp_path)


def test_masks_that_were_saved_as_colours(voc, tmp_path):
    """Their class is a colour, which no list of names has."""
    for name in ("SegmentationObject", "SegmentationClass"):
        path = voc / name / "2007_1.png"
        with Image.open(path) as image:
            image.convert("RGB").save(path)
    found, lines = convert(voc, tmp_path)
    assert equal(found, {"2007_1.jpg": {}})
    assert len(lines) == 1 and "objects left out, whose class id is none of" in lines[0]


def test_an_empty_list_of_images(voc, tmp_path):
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="no image can be used"):
        convert(voc, tmp_path, split="val")


def test_bad_masks_cost_their_image(voc, tmp_path):
    for name in ("b", "c", "d", "e"):
        photo(voc / "JPEGImages" / f"{name}.jpg")
        for kind in ("SegmentationObject", "SegmentationClass"):
            png(voc / kind / f"{name}.png", box(0, 0, 5, 5))
    (voc / "SegmentationClass" / "b.png").unlink()
    (voc / "SegmentationObject" / "c.png").write_text("no picture")
    png(voc / "SegmentationClass" / "d.png", box(0, 0, 5, 5, height=9))
    photo(voc / "JPEGImages" / "e.jpg", height=9)
    found, lines = convert(voc, tmp_path)
    assert list(found) == ["2007_1.jpg"]
    text = "\n".join(lines)
    for told in (
        "is missing: image SegmentationObject/b.png",
        "cannot be read: image SegmentationObject/c.png",
        "differ in size: image SegmentationObject/d.png",
        "another size than that of the file: image e.jpg",
    ):
        assert told in text


def test_a_list_chooses_images(voc, tmp_path):
    for kind in ("SegmentationObject", "SegmentationClass"):
        png(voc / kind / "b.png", box(0, 0, 5, 5))
    photo(voc / "JPEGImages" / "b.jpg")
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n\n")
    found, _ = convert(voc, tmp_path, split="val")
    assert list(found) == ["b.jpg"] and list(found["b.jpg"]) == ["aeroplane"]
    with pytest.raises(FileNotFoundError, match="--split may be val"):
        convert(voc, tmp_path, split="train")
