"""The choice of a format, and the categories of the result."""

import pytest

from maskrcnn_jax.cli.arguments import data as data_arguments
from maskrcnn_jax.data.formats import conversion
from tests.data.formats.examples import box, convert, photo, png, write

SHAPE = {"label": "nut", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
LABELME = {"shapes": [SHAPE], "imagePath": "a.png"}


def test_the_command_knows_the_formats():
    assert data_arguments.FORMATS == tuple(conversion.FORMATS)


def test_content_decides_on_the_format(tmp_path):
    write(tmp_path / "labelme" / "a.json", LABELME)
    png(tmp_path / "labelme" / "a.png", box(0, 0, 1, 1))
    write(tmp_path / "via.json", {"a.png1": {"filename": "a.png", "regions": []}})
    write(tmp_path / "city" / "x" / "a_gtFine_polygons.json", {})
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("")
    for name in ("SegmentationObject", "SegmentationClass"):
        png(tmp_path / "voc" / name / "a.png", box(0, 0, 1, 1))
    png(tmp_path / "masks" / "a.png", box(0, 0, 1, 1))
    names = {"labelme": "labelme", "via": "via.json", "cityscapes": "city"}
    names |= {name: name for name in ("yolo", "voc", "masks")}
    assert sorted(names) == sorted(conversion.FORMATS)
    assert {name: conversion.find(tmp_path / path) for name, path in names.items()} == {
        name: name for name in names
    }


def test_what_is_not_clear_is_refused(tmp_path):
    write(tmp_path / "both" / "a.json", LABELME)
    (tmp_path / "both" / "data.yaml").write_text("")
    write(tmp_path / "coco.json", {"images": [], "annotations": [], "categories": []})
    (tmp_path / "empty").mkdir()
    for name, message in {
        "both": "may be labelme or yolo: --format says which",
        "coco.json": "seems to be COCO json already",
        "empty": "is in none of the formats labelme, via",
    }.items():
        with pytest.raises(ValueError, match=message):
            conversion.convert(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        conversion.convert(tmp_path / "absent")


def test_choices_of_other_formats_are_refused(tmp_path):
    write(tmp_path / "in" / "a.json", LABELME)
    with pytest.raises(ValueError, match="--split is for yolo, voc, cityscapes; this is labelme"):
        conversion.convert(tmp_path / "in", split="train")
    with pytest.raises(ValueError, match="--attribute is for via; this is labelme"):
        conversion.convert(tmp_path / "in", attribute="class")
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        conversion.convert(tmp_path / "in", images=tmp_path / "absent")


def test_nothing_to_convert_is_an_error(tmp_path):
    write(tmp_path / "in" / "a.json", LABELME)
    with pytest.raises(ValueError, match="no image can be used.*whose file is not in"):
        conversion.convert(tmp_path / "in")
    photo(tmp_path / "in" / "a.png")
    write(tmp_path / "in" / "a.json", LABELME | {"shapes": []})
    with pytest.raises(ValueError, match="there is no object, and so no category"):
        conversion.convert(tmp_path / "in")


def test_images_may_lie_elsewhere(tmp_path):
    write(tmp_path / "in" / "a.json", LABELME)
    photo(tmp_path / "photos" / "day 1" / "A.png")
    found, lines = convert(tmp_path / "in", tmp_path, images=tmp_path / "photos")
    assert list(found) == ["day 1/A.png"] and lines == []


def test_categories_of_another_file(tmp_path):
    write(tmp_path / "in" / "a.json", LABELME)
    photo(tmp_path / "in" / "a.png")
    names = [{"id": 9, "name": "nut"}, {"id": 2, "name": "fig"}]
    write(tmp_path / "train.json", {"images": [], "annotations": [], "categories": names})
    content = conversion.convert(tmp_path / "in", categories=tmp_path / "train.json").content
    assert content["categories"] == names
    assert [found["category_id"] for found in content["annotations"]] == [9]
    write(tmp_path / "train.json", {"images": [], "annotations": [], "categories": names[1:]})
    with pytest.raises(ValueError, match="--categories lacks nut: it has fig"):
        conversion.convert(tmp_path / "in", categories=tmp_path / "train.json")
