"""Annotation files as labelling tools write them: read where the meaning is clear, else counted."""

import json

import numpy as np
import pytest

from maskrcnn_jax.data import annotations, rle
from maskrcnn_jax.data.coco import CocoDataset

SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]
BOX = [10, 5, 20, 20]
BITMAP = np.zeros((40, 60), np.uint8)
BITMAP[5:25, 10:30] = 1
RUNS = rle.encode_bitmap(BITMAP)


def annotation(annotation_id, **changes):
    fields = {"id": annotation_id, "image_id": 1, "category_id": 7, "bbox": list(BOX)}
    return fields | {"segmentation": [list(SQUARE)], "iscrowd": 0, "area": 400} | changes


def content(*objects, images=None, **changes):
    images = images or [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}]
    objects = objects or (annotation(1),)
    found = {"images": images, "annotations": list(objects)}
    return found | {"categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]} | changes


@pytest.fixture
def read(tmp_path):
    """Reads a content; returns the annotations and the lines about them."""

    def read(written, **options):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(written))
        found = annotations.read(path, **options)
        return found.content["annotations"], found.findings.lines()

    return read


def without(entry, *keys):
    return {key: value for key, value in entry.items() if key not in keys}


GOOD = content()


def test_sizes_of_run_lengths_become_whole_numbers(read):
    runs = {"size": [40.0, 60.0], "counts": [100, 10, 2290]}
    (found,), _ = read(content(annotation(1, segmentation=runs)))
    assert json.dumps(found["segmentation"]["size"]) == "[40, 60]"


def test_a_good_file_stays_as_it_is(read):
    assert read(GOOD) == (GOOD["annotations"], [])


LENGTHS = rle.run_lengths(RUNS["counts"]).tolist()
POINTS = [[10, 5], [30, 5], [30, 25], [10, 25]]
ONE_MEANING = {
    "a flat list": {"segmentation": SQUARE},
    "one level too many": {"segmentation": [[SQUARE]]},
    "two levels too many": {"segmentation": [[[SQUARE]]]},
    "a list of points": {"segmentation": POINTS},
    "a list of lists of points": {"segmentation": [POINTS]},
    "JSON in text": {"segmentation": json.dumps([SQUARE])},
    "numbers as text": {"segmentation": [[str(x) for x in SQUARE]]},
    "one number as text": {"segmentation": [["10.0", *SQUARE[1:]]]},
    "compressed run lengths": {"segmentation": RUNS},
    "the size as text": {"segmentation": RUNS | {"size": ["40", 60.0]}},
    "the text of bytes": {"segmentation": RUNS | {"counts": str(RUNS["counts"].encode())}},
    "run lengths in text": {"segmentation": json.dumps(RUNS)},
    "a list of points with names": {"segmentation": [[{"x": x, "y": y} for x, y in POINTS]]},
    "run lengths in a list": {"segmentation": [RUNS]},
    "run lengths as text": {"segmentation": RUNS | {"counts": [str(x) for x in LENGTHS]}},
    "run lengths as floats": {"segmentation": RUNS | {"counts": [float(x) for x in LENGTHS]}},
    "run lengths as JSON": {"segmentation": RUNS | {"counts": json.dumps(LENGTHS)}},
    "box as text": {"bbox": [str(x) for x in BOX]},
    "box in text": {"bbox": str(BOX)},
    "box as text with commas": {"bbox": "10,5,20,20"},
    "box in a list": {"bbox": [BOX]},
    "box with names": {"bbox": {"x": 10, "y": 5, "width": 20, "height": 20}},
    "the name of the image": {"image_id": "a.png"},
    "the name of the category": {"category_id": "cat"},
    "no box": {"bbox": None},
    "an empty box": {"bbox": []},
    "ids as text": {"id": "1", "image_id": "1", "category_id": "7"},
    "ids as floats": {"id": 1.0, "image_id": 1.0, "category_id": 7.0},
    "iscrowd as text": {"iscrowd": "0"},
    "iscrowd as a truth value": {"iscrowd": False},
    "iscrowd as a word": {"iscrowd": "false"},
    "no iscrowd": {"iscrowd": None},
    "no id": {"id": None},
    "an id that is a word": {"id": "square"},
    "area as text": {"area": "400"},
}


@pytest.mark.parametrize("changes", ONE_MEANING.values(), ids=list(ONE_MEANING))
def test_what_has_one_meaning_is_read(read, changes):
    ((found,), lines) = read(content(annotation(1, **changes)))
    assert lines == []
    assert (found["id"], found["image_id"], found["category_id"]) == (1, 1, 7)
    assert found["bbox"] == BOX and not found.get("iscrowd") and found["area"] == 400
    mask = rle.decode(found["segmentation"], 40, 60)
    np.testing.assert_array_equal(mask, BITMAP)


def test_boxes_come_from_run_lengths_too(read):
    bitmap = np.zeros((40, 60), np.uint8)
    bitmap[3, 8], bitmap[30:32, 20] = 1, 1
    whole = np.ones((40, 60), np.uint8)
    masks = [rle.encode_bitmap(x) for x in (bitmap, whole)]
    objects = [without(annotation(i, segmentation=m), "bbox") for i, m in enumerate(masks)]
    assert [entry["bbox"] for entry in read(content(*objects))[0]] == [
        [8, 3, 13, 29],
        [0, 0, 60, 40],
    ]


COSTS_ITSELF = {
    "fewer than 3 points": {"segmentation": [[1, 1, 4, 4]]},
    "an odd number of values": {"segmentation": [[1, 1, 4, 4, 5, 6, 7]]},
    "no numbers": {"segmentation": [[1, 1, 4, True, 5, 6]]},
    "or that no image can have": {"segmentation": [[1, 1, 4, 4, 1e300, 6]]},
    "values that are no numbers, or that no": {"segmentation": [[1, 1, 4, 4, 10**400, 6]]},
    "neither polygons nor run lengths": {"segmentation": "none"},
    "outside of the image": {"segmentation": [[500, 5, 530, 5, 530, 25]]},
    "lies outside": {"segmentation": [[65, 5, 75, 5, 75, 15]]},  # Near the image.
    "another size": {"segmentation": RUNS | {"size": [60, 40]}},
    "do not fit the size": {"segmentation": RUNS | {"counts": "zzz"}},
    "run lengths do not fit": {"segmentation": RUNS | {"counts": "b''" + "-" * 9000 + "1"}},
    "run lengths do not": {"segmentation": RUNS | {"counts": "b'', 1"}},
    "none of [7, 9]": {"category_id": 8},
    "neither 0 nor 1": {"iscrowd": 2},
    "not listed": {"image_id": 3},
    "neither a box nor a mask": {"bbox": [], "segmentation": []},
    "not 4 numbers": {"bbox": [1, 2, 3]},
    "bbox is not 4 numbers": {"bbox": [10**400, 5, 20, 20]},
    "in pixels|not 4 numbers": {"bbox": {"x": 1}},
    "decimal commas|not 4 numbers": {"bbox": "10,5 5,5 20,5 20,5"},
    "fit the size of the mask": {"segmentation": RUNS | {"counts": [1.5, 2398.5]}},
    "a name of nothing|category id is none of [7, 9]": {"category_id": "bird"},
}


@pytest.mark.parametrize("kind", COSTS_ITSELF)
def test_a_bad_annotation_costs_itself(read, kind):
    bad = [annotation(i, **COSTS_ITSELF[kind]) for i in range(10, 40)]
    found, lines = read(content(annotation(1), *bad, annotation(50)))
    used = [entry["id"] for entry in found if entry["segmentation"] and entry["bbox"]]
    assert {1, 50} <= set(used) and ("4 numbers" in kind or set(used) == {1, 50})
    (line,) = lines
    assert line.startswith("30 annotations ") and kind.split("|")[-1] in line
    assert line.endswith("annotation id 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, ...")


@pytest.mark.parametrize("entry", ["text", None, [1]])
def test_an_entry_that_is_no_object_is_counted(read, entry):
    found, (line,) = read(content(annotation(1), entry))
    assert len(found) == 1 and line.endswith("annotation id of number 2")


def test_ids_that_are_used_twice_are_given_anew(read):
    found, lines = read(content(annotation(3), annotation(3), annotation(None), annotation("3")))
    assert [entry["id"] for entry in found] == [3, 4, 5, 6] and lines == []


@pytest.mark.parametrize("ids", [("7", "9"), (7.0, 9.0), (" 7", "+9"), (10236529665, 10236529666)])
def test_category_ids_in_any_notation(read, ids):
    categories = [{"id": ids[0], "name": "cat"}, {"id": ids[1], "name": "dog"}]
    (found,), lines = read(content(annotation(1, category_id=ids[1]), categories=categories))
    assert lines == [] and found["category_id"] == int(ids[1])


def test_a_name_of_two_categories_is_not_guessed(read):
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "cat"}]
    found, (line,) = read(content(annotation(1, category_id="cat"), categories=categories))
    assert found == [] and "category id is none of [7, 9]" in line


def test_crowds_may_be_objects(read):
    crowd = annotation(1, iscrowd=1, segmentation=RUNS)
    assert read(content(crowd))[0] == [crowd]
    assert read(content(crowd), crowd="objects")[0] == [crowd | {"iscrowd": 0}]


# Boxes and masks that contradict each other.


def test_boxes_by_their_corners_are_said(read):
    outline = [[40, 25, 55, 25, 55, 35, 40, 35]]
    objects = [annotation(i, segmentation=outline, bbox=[40, 25, 55, 35]) for i in range(3)]
    _, (line,) = read(content(*objects))
    assert "3 annotations whose box does not fit" in line and "seems to be x0, y0, x1, y1" in line
    good = [annotation(i) for i in range(10, 20)]
    _, (line,) = read(content(*objects, *good))
    assert line == "3 annotations whose box does not fit their mask: annotation id 0, 1, 2"


@pytest.mark.parametrize("mask", [[SQUARE], RUNS])
@pytest.mark.parametrize(
    "box, fits",
    [(BOX, True), ([10, 5, 19, 21], True), ([0, 0, 60, 40], False), ([40, 5, 10, 9], False)],
)
def test_whether_a_box_fits(mask, box, fits):
    assert annotations.fits(box, mask) is fits


@pytest.mark.parametrize("area", [0, -1, "nan", 10**9, 485])
def test_an_area_that_the_object_cannot_have_is_said(read, area):
    found, (line,) = read(content(annotation(1), annotation(2, area=area), annotation(3, area=484)))
    assert len(found) == 3
    assert line == (
        "annotations with an area that their objects cannot have; the area of the mask counts: "
        "annotation id 2"
    )


def test_a_box_that_does_not_fit_is_said_before_its_area(read):
    _, (line,) = read(content(annotation(1, bbox=[12, 7, 5, 5]), annotation(2)))
    assert line == "annotations whose box does not fit their mask: annotation id 1"


def test_a_number_of_thousands_of_digits_costs_its_annotation(tmp_path):
    path = tmp_path / "instances.json"
    text = json.dumps(content(annotation(1), annotation(2, bbox=[77, 5, 20, 20])))
    path.write_text(text.replace("77", "1" * 5000))
    found = annotations.read(path).content["annotations"]
    assert [entry["id"] for entry in found] == [1, 2]


@pytest.mark.parametrize("value", ["x" * 10_000, [1] * 9999, "\x1b[31m"], ids=[0, 1, 2])
def test_messages_are_short_and_printable(read, value):
    found, lines = read(content(annotation(1), annotation(value, category_id=value)))
    assert len(found) == 1 and len(lines) == 1
    for line in [*lines, annotations.short(value), annotations.short(10**5000)]:
        assert len(line) < 300 and line.isprintable()


# Data sets without a usable image.


def empty(tmp_path, written):
    (tmp_path / "instances.json").write_text(json.dumps(written))
    dataset = CocoDataset(tmp_path, tmp_path / "instances.json", keep_empty=False)
    assert len(dataset) == 0
    return dataset.why_empty


def test_why_there_are_no_images(tmp_path):
    crowds = [annotation(i, iscrowd=1) for i in range(3)]
    why = empty(tmp_path, content(*crowds))
    assert "has 1 usable images and 3 usable annotations, but no object to learn from: 3 are" in why
    fractions = [annotation(1, bbox=[0.2, 0.1, 0.3, 0.5], segmentation=[[0.2, 0.1] * 4])]
    assert "seem to be fractions of the image" in empty(tmp_path, content(*fractions))
    tiny = [annotation(1, bbox=[20, 20, 0.5, 0.5])]
    why = empty(tmp_path, content(*tiny))
    assert "1 objects have a side of at most one pixel" in why and "fractions" not in why
    boxes = [annotation(1, segmentation=[])]
    assert "annotations left out, which have no mask" in empty(tmp_path, content(*boxes))
    no_images = GOOD | {"images": []}
    assert "has 0 usable images and 0 usable annotations: ann" in empty(tmp_path, no_images)


def test_fractions_are_said_where_images_without_objects_stay(tmp_path, caplog):
    boxes = [[0.2, 0.1, 0.3, 0.5], [0, 0, 1, 1]]
    fractions = [annotation(i, bbox=box, segmentation=[SQUARE]) for i, box in enumerate(boxes)]
    for last, expected in ([], True), ([annotation(5)], False):
        caplog.clear()
        (tmp_path / "instances.json").write_text(json.dumps(content(*fractions, *last)))
        CocoDataset(tmp_path, tmp_path / "instances.json", keep_empty=True)
        assert ("seem to be fractions of the image" in caplog.text) is expected
