"""Images of an annotation file: which entries count, and how annotations name them."""

import pytest

from maskrcnn_jax.data.findings import Findings
from maskrcnn_jax.data.image_entries import ImageIds, read_images

IMAGE = {"id": 1, "file_name": "a.png", "height": 40, "width": 60}
OTHER = {"id": 2, "file_name": "b.png", "height": 40, "width": 60}


def read(*entries, size_of=None):
    """The images, their ids, and the lines about what was left out."""
    findings = Findings()
    images, ids = read_images(list(entries), size_of, findings)
    return images, ids, findings.lines()


@pytest.mark.parametrize(
    "ids, of_object, number",
    [
        (("1", "2"), 2, 2),
        ((1.0, 2.0), "2", 2),
        (("img_1", "img_2"), "img_2", 2),
        ((10236529665, 10236529666), 10236529666, 2),
        ((10236529665, 10236529666), "10236529666", 2),
        ((2**31 - 1, -(2**31)), -(2**31), -(2**31)),  # Batches have ids of 32 bits.
        ((2**31, 5), 5, 2),
        ((-(2**31) - 1, 5), 5, 2),
        ((10**30, 10**30 + 1), 10**30 + 1, 2),
        (("01", "1"), "1", 2),
        (("1", 1), 1, 2),
        ((-4, 8), -4, -4),
        (("000000000139", "000000000285"), 285, 285),
    ],
)
def test_image_ids_are_names(ids, of_object, number):
    images, found, lines = read(IMAGE | {"id": ids[0]}, OTHER | {"id": ids[1]})
    assert lines == [] and found.find(of_object) == number
    by_id = {image["id"]: image for image in images}
    assert len(by_id) == 2 and all(isinstance(x, int) for x in by_id)
    given = by_id[number].get("original_id", number)
    assert str(given).lstrip("0") == str(of_object).lstrip("0")


@pytest.mark.parametrize("value", [1, "001", 3, "img", None, True, "", 1.5, [1]])
def test_an_id_that_may_be_of_two_images_or_of_none_is_not_guessed(value):
    assert ImageIds(["01", "1"]).find(value) is None
    assert ImageIds(["01", "1"]).find("1") == 2


@pytest.mark.parametrize(
    "image, line",
    [
        ({k: v for k, v in OTHER.items() if k != "file_name"}, "have no file_name: image id 2"),
        (OTHER | {"height": 0, "width": 0}, "nor a file that tells them: image id 2"),
        (OTHER | {"height": "many"}, "nor a file that tells them: image id 2"),
        (OTHER | {"height": 10**9, "width": 10**9}, "whose size no image can have: image id 2"),
        (OTHER | {"height": 1, "width": 10**6}, "whose size no image can have: image id 2"),
        (OTHER | {"height": 2**17, "width": 2**14}, "whose size no image can have: image id 2"),
        (OTHER | {"id": True}, "neither a whole number nor text: image id b.png"),
        (OTHER | {"id": ""}, "neither a whole number nor text: image id b.png"),
        ("b.png", "no objects with fields: image id 2"),
    ],
)
def test_a_bad_image_costs_itself(image, line):
    images, _, (told,) = read(IMAGE, image)
    assert images == [IMAGE]
    assert told.startswith("images left out") and told.endswith(line)


def test_sides_at_the_limit_are_images():
    images, _, lines = read(IMAGE | {"height": 2**18, "width": 2**12}, OTHER | {"width": 1})
    assert len(images) == 2 and lines == []


def test_images_that_share_an_id():
    images, ids, lines = read(IMAGE, IMAGE | {"id": 2}, OTHER, IMAGE)
    assert [image["id"] for image in images] == [1] and ids.find(2) is None
    told = " ".join(lines)
    assert "listed twice; the first entry counts: image id 1" in told
    assert "since several files share the id: image id 2" in told


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://images.cocodataset.org/train2017/a.png?x=1", "train2017/a.png"),
        ("http://[broken/a.png", "[broken/a.png"),
        ("train/a.png#1", "train/a.png"),
    ],
)
def test_sizes_and_names_come_from_elsewhere(address, name):
    asked = []
    images, _, lines = read(
        {"id": 1, "coco_url": address, "height": None},
        size_of=lambda name: asked.append(name) or (40, 60),
    )
    assert asked == [name] and lines == []
    (image,) = images
    assert (image["file_name"], image["height"], image["width"]) == (name, 40, 60)


def test_an_image_that_cannot_be_asked_for_its_size_is_left_out():
    def size_of(name):
        raise OSError(name)

    images, _, (line,) = read(IMAGE, {"id": 2, "file_name": "b.png"}, size_of=size_of)
    assert images == [IMAGE] and line.endswith("nor a file that tells them: image id 2")


@pytest.mark.parametrize("key", ["filename", "path"])
def test_names_may_stand_under_other_keys(key):
    (image,), _, _ = read({"id": 1, key: "/photos/a.png", "height": 40, "width": 60})
    assert image["file_name"] == "/photos/a.png"


def test_an_entry_that_needs_no_repair_is_the_same_object():
    entry = IMAGE | {"licence": 3}
    (found,), _, _ = read(entry)
    assert found is entry
    (found,), _, _ = read(entry | {"height": "40"})
    assert found == entry
