"""The json of VIA 1 and 2."""

import math

import pytest

from tests.data.formats.examples import agree, box, convert, disc, equal, photo, write

POLYGON = {"name": "polygon", "all_points_x": [10, 30, 30, 10], "all_points_y": [5, 5, 20, 20]}
RECT = {"name": "rect", "x": 40, "y": 25, "width": 10, "height": 5}
CIRCLE = {"name": "circle", "cx": 30, "cy": 20, "r": 12}
ELLIPSE = {"name": "ellipse", "cx": 30, "cy": 20, "rx": 18, "ry": 7, "theta": 0.5}


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def export(*regions, as_list=True, name="a.png"):
    own = list(regions) if as_list else {str(i): x for i, x in enumerate(regions)}
    return {f"{name}123": {"filename": name, "size": 123, "regions": own, "file_attributes": {}}}


@pytest.fixture
def via(tmp_path):
    photo(tmp_path / "in" / "a.png")

    def written(content):
        write(tmp_path / "in" / "via.json", content)
        return tmp_path / "in" / "via.json"

    return written


@pytest.mark.parametrize("as_list", [True, False], ids=["version 2", "version 1"])
@pytest.mark.parametrize("in_project", [True, False])
def test_all_shapes(via, tmp_path, as_list, in_project):
    shapes = {"p": POLYGON, "r": RECT, "c": CIRCLE, "e": ELLIPSE}
    content = export(*(region(x, kind=name) for name, x in shapes.items()), as_list=as_list)
    if in_project:
        content = {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}}
    found, lines = convert(via(content), tmp_path)
    assert lines == []
    (circle,), (ellipse,) = (found["a.png"].pop(name) for name in "ce")
    assert agree(circle, disc(30, 20, 12, 12)) and agree(ellipse, disc(30, 20, 18, 7, 0.5))
    assert not agree(ellipse, disc(30, 20, 18, 7, -0.5))
    assert equal(found, {"a.png": {"p": [box(10, 5, 30, 20)], "r": [box(40, 25, 50, 30)]}})


def test_without_attributes_there_is_one_category(via, tmp_path):
    found, lines = convert(via(export(region(RECT), region(POLYGON))), tmp_path)
    assert list(found["a.png"]) == ["object"] and len(found["a.png"]["object"]) == 2
    assert lines == []


def test_of_several_attributes_one_has_to_be_named(via, tmp_path):
    path = via(export(region(RECT, kind="nut", colour="red"), region(POLYGON, colour="blue")))
    with pytest.raises(ValueError, match="--attribute says which names the class, of kind, colour"):
        convert(path, tmp_path)
    found, _ = convert(path, tmp_path, attribute="colour")
    assert sorted(found["a.png"]) == ["blue", "red"]
    found, lines = convert(path, tmp_path, attribute="kind")
    assert list(found["a.png"]) == ["nut"]
    assert lines == ["objects left out, whose class has no name: object regions[1] of a.png"]


def test_check_boxes_name_one_class(via, tmp_path):
    values = [{"nut": True}, {"nut": "true", "fig": False}, {"nut": True, "fig": True}, {}]
    found, lines = convert(via(export(*(region(RECT, kind=x) for x in values))), tmp_path)
    assert len(found["a.png"]["nut"]) == 2
    assert "objects left out, which have several classes: object regions[2] of a.png" in lines
    assert "objects left out, whose class has no name: object regions[3] of a.png" in lines


BAD = {
    "a point, which has no area": {"name": "point", "cx": 1, "cy": 1},
    "a polyline, which has no area": POLYGON | {"name": "polyline"},
    "fewer than 3 points": {"name": "polygon", "all_points_x": [1, 9], "all_points_y": [1, 9]},
    "values that are no numbers": {
        "name": "polygon",
        "all_points_x": [1, 9, 5],
        "all_points_y": [1],
    },
    "left out, whose outline has values that are no numbers": RECT | {"width": None},
    "whose radius is not positive": CIRCLE | {"r": 0},
    "or that no image can have": CIRCLE | {"r": math.inf},
    "whose mask lies outside of the image": RECT | {"x": 500},
    "which have no shape_attributes": None,
    "a None, which has no area": {},
    "whose mask covers no pixel": RECT | {"width": 0},
    "outline has values that are no numbers": POLYGON | {"all_points_x": [1, True, 4, 5]},
    "no numbers, or that no image can have": ELLIPSE | {"theta": "left"},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_region_costs_itself(via, tmp_path, reason):
    found, lines = convert(via(export(region(BAD[reason]), region(POLYGON))), tmp_path)
    assert equal(found, {"a.png": {"object": [box(10, 5, 30, 20)]}})
    assert len(lines) == 1 and reason in lines[0] and lines[0].endswith("regions[0] of a.png")


def test_odd_entries(via, tmp_path):
    content = export(region(RECT)) | export(region(RECT), name="sub\\missing.png")
    content |= {"x": 5, "y": {"filename": "A.PNG", "regions": 7}, "z": {"regions": []}}
    found, lines = convert(via(content), tmp_path)
    assert list(found) == ["a.png"] and len(found["a.png"]["object"]) == 1
    text = "\n".join(lines)
    assert "image sub\\missing.png" in text and "which are no objects with fields: image x" in text
    assert "all of their objects count: image a.png (y)" in text
    assert "which have no shape_attributes: object regions[0] of A.PNG" in text
    assert "which have no file name: image z" in text


def test_classes_that_are_no_names(via, tmp_path):
    values = [1.5, ["nut"], True, " ", 7, "nut"]
    regions = [region(RECT, kind=value) for value in values]
    found, lines = convert(via(export(*regions, None, "text")), tmp_path)
    assert {name: len(masks) for name, masks in found["a.png"].items()} == {"7": 1, "nut": 1}
    assert lines[0].startswith("4 objects left out, whose class has no name: object regions[0]")
    assert lines[1].startswith("2 objects left out, which have no shape_attributes: object")


def test_broken_files_are_refused(via, tmp_path):
    path = via({})
    for content in (b"{", b"PK\x03\x04", b'{"a": 1}', b'{"_via_img_metadata": 5}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="via.json"):
            convert(path, tmp_path, format_name="via")
