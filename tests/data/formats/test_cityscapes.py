"""Polygons of Cityscapes."""

import json

import pytest

from maskrcnn_jax.data.formats import conversion
from tests.data.formats.examples import HEIGHT, WIDTH, box, convert, equal, photo, write


def polygon(label, x0, y0, x1, y1, **fields):
    """Cityscapes draws the corners too, so x1 and y1 are the last pixels."""
    points = [[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]
    return {"label": label, "polygon": points} | fields


@pytest.fixture
def city(tmp_path):
    top = tmp_path / "in"

    def written(*objects, split="train", size=(HEIGHT, WIDTH)):
        name = "ulm_000000_000019"
        photo(top / "leftImg8bit" / split / "ulm" / f"{name}_leftImg8bit.png")
        content = {"imgHeight": size[0], "imgWidth": size[1], "objects": list(objects)}
        write(top / "gtFine" / split / "ulm" / f"{name}_gtFine_polygons.json", content)
        return top

    return written


NAME = "train/ulm/ulm_000000_000019_leftImg8bit.png"


def test_later_objects_cover_earlier_ones(city, tmp_path):
    objects = [
        polygon("road", 0, 0, 60, 40),
        polygon("car", 10, 10, 30, 30),
        polygon("car", 20, 10, 40, 30),
        polygon("license plate", 20, 20, 25, 25),
        polygon("pole", 0, 15, 60, 18),
        polygon("person", 50, 30, 55, 35),
        polygon("wall", 50, 30, 55, 35),
    ]
    found, lines = convert(city(*objects), tmp_path)
    pole = 1 - box(0, 15, 60, 18)
    assert equal(found, {NAME: {"car": [box(10, 10, 20, 30) * pole, box(20, 10, 40, 30) * pole]}})
    assert "4 regions left out, which are no objects of the benchmark" in lines[0]
    assert lines[1].startswith("objects left out, which later objects cover: object objects[5]")
    assert len(lines) == 2


def test_groups_are_crowds_and_other_labels_stay(city, tmp_path):
    top = city(
        polygon("cargroup", 0, 0, 9, 9), polygon("nut", 20, 0, 29, 9), polygon("car", 40, 0, 49, 9)
    )
    content = conversion.convert(top).content
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    found = [(names[x["category_id"]], x["iscrowd"]) for x in content["annotations"]]
    assert found == [("car", 1), ("nut", 0), ("car", 0)]
    assert list(names.values()) == [
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
        "nut",
    ]


def test_splits(city, tmp_path):
    city(polygon("car", 0, 0, 9, 9))
    top = city(polygon("bus", 0, 0, 9, 9), split="val")
    assert len(convert(top, tmp_path)[0]) == 2
    found, _ = convert(top, tmp_path, split="val")
    assert [list(x) for x in found.values()] == [["bus"]]
    found, _ = convert(top / "gtFine" / "val", tmp_path)
    assert [list(x) for x in found.values()] == [["bus"]]
    with pytest.raises(FileNotFoundError, match="there is no folder test with polygons"):
        convert(top, tmp_path, split="test")


BAD = {
    "fewer than 3 points": {"label": "car", "polygon": [[1, 1], [5, 5]]},
    "has fewer than 3 points": {"label": "car", "polygon": []},
    "which have no label": {"polygon": [[1, 1], [5, 5], [5, 1]]},
    "which are marked as deleted": polygon("car", 0, 0, 9, 9, deleted=1),
    "whose mask lies outside": polygon("car", 100, 0, 109, 9),
    "no numbers": {"label": "car", "polygon": [[1, None], [5, 5], [5, 1]]},
    "neither polygons nor run lengths": {"label": "car", "polygon": [[[[[[1, 1]]]]]]},
    "whose class has no name": polygon(" ", 0, 0, 9, 9),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_object_costs_itself(city, tmp_path, reason):
    found, lines = convert(city(BAD[reason], polygon("car", 10, 10, 20, 20)), tmp_path)
    assert equal(found, {NAME: {"car": [box(10, 10, 20, 20)]}})
    assert len(lines) == 1 and reason in lines[0] and "objects[0] of" in lines[0]


def test_a_far_corner_is_cut(city, tmp_path):
    found, lines = convert(city(polygon("car", 10, 10, 3 * 10**8, 20)), tmp_path)
    assert equal(found, {NAME: {"car": [box(10, 10, 60, 20)]}})
    assert len(lines) == 1 and lines[0].startswith("objects whose outline reaches far beyond")


@pytest.mark.slow
def test_thousands_of_objects_are_read(city):
    sides = range(0, 144, 2)
    top = city(*(polygon("car", x, y, x + 2, y + 2) for y in sides for x in sides), size=(144, 144))
    photo(top / "leftImg8bit" / NAME, 144, 144)
    found = conversion.convert(top)
    assert len(found.content["annotations"]) == 72 * 72 and not found.findings


def test_bad_files_cost_themselves(city, tmp_path):
    top = city(polygon("car", 0, 0, 9, 9))
    folder = top / "gtFine" / "train" / "ulm"
    (folder / "a_gtFine_polygons.json").write_text("{")
    write(folder / "b_gtFine_polygons.json", {"objects": 5})
    write(folder / "c_gtFine_polygons.json", {"imgHeight": 1, "imgWidth": 1, "objects": []})
    found, lines = convert(top, tmp_path)
    assert list(found) == [NAME] and len(lines) == 3
    city(polygon("car", 0, 0, 9, 9), size=(60, 40))
    with pytest.raises(ValueError, match="annotations are for another size than that of the file"):
        convert(top, tmp_path)
    assert json.loads((folder / "b_gtFine_polygons.json").read_text()) == {"objects": 5}
