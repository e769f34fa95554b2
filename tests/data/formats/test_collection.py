"""Images and objects of another format on their way to COCO json."""

import numpy as np
import pytest

from maskrcnn_jax.data import rle
from maskrcnn_jax.data.formats.collection import Collection
from tests.data.formats.examples import HEIGHT, WIDTH, box, photo

SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]


@pytest.fixture
def collection(tmp_path):
    """A collection of a folder with the images a.png and b.png."""
    for name in ("a.png", "b.png"):
        photo(tmp_path / name)
    return Collection(tmp_path)


def lines(collection):
    return " ".join(collection.findings.lines())


def test_images_and_objects_are_numbered_by_the_names_of_the_images(collection):
    for name, category in (("b.png", "dog"), ("a.png", "dog"), ("b.png", "cat")):
        image = collection.image(name, f"{name}.json")
        collection.add(image, category, [SQUARE], "shape 1")
    content = collection.content()
    names = [(x["id"], x["file_name"]) for x in content["images"]]
    assert names == [(1, "a.png"), (2, "b.png")]
    assert [(x["id"], x["name"]) for x in content["categories"]] == [(1, "cat"), (2, "dog")]
    found = [(x["id"], x["image_id"], x["category_id"]) for x in content["annotations"]]
    assert found == [(1, 1, 2), (2, 2, 2), (3, 2, 1)]
    first = content["annotations"][0]
    assert first["bbox"] == [10, 5, 20, 20] and first["area"] == 400 and first["iscrowd"] == 0
    assert "annotated in several places; all of their objects count: image b.png" in lines(
        collection
    )
    assert collection.is_whole


def test_listed_categories_come_first_and_in_their_order(collection):
    collection.list_categories(["dog", "bird"])
    collection.add(collection.image("a.png", "x"), "cat", [SQUARE], "shape 1")
    names = [entry["name"] for entry in collection.content()["categories"]]
    assert names == ["dog", "bird", "cat"]


def test_given_categories_keep_their_ids(tmp_path, collection):
    given = [{"id": 90, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "dog"}]
    chosen = Collection(tmp_path, given)
    chosen.add(chosen.image("a.png", "x"), "cat", [SQUARE], "shape 1", is_crowd=True)
    content = chosen.content()
    assert content["categories"] == [{"id": 90, "name": "cat"}, {"id": 7, "name": "dog"}]
    (found,) = content["annotations"]
    assert found["category_id"] == 90 and found["iscrowd"] == 1
    chosen.add(chosen.image("b.png", "x"), "cow", [SQUARE], "shape 1")
    with pytest.raises(ValueError, match="--categories lacks cow: it has cat, dog"):
        chosen.content()


def test_the_union_of_all_parts_is_the_object(collection):
    image = collection.image("a.png", "x")
    runs = rle.encode_bitmap(box(0, 0, 20, 20))
    collection.add(image, "a", [SQUARE, [1, 1, 5, 1, 5, 5]], "polygons")
    collection.add(image, "a", [SQUARE, runs], "mixed")
    collection.add(image, "a", [runs, [1, 2]], "one part is none")
    polygons, mixed, alone = (x["segmentation"] for x in collection.content()["annotations"])
    assert polygons == [SQUARE, [1, 1, 5, 1, 5, 5]] and alone == runs
    expected = box(0, 0, 20, 20) | box(10, 5, 30, 25)
    np.testing.assert_array_equal(rle.decode(mixed, HEIGHT, WIDTH), expected)
    assert "objects with a part that is no polygon" in lines(collection)


@pytest.mark.parametrize(
    "category, parts, reason",
    [
        (" ", [SQUARE], "whose class has no name"),
        (None, [SQUARE], "whose class has no name"),
        (True, [SQUARE], "whose class has no name"),
        ("a", [], "which have no outline"),
        ("a", [[1, 2]], "whose outline has fewer than 3 points"),
        ("a", [[1.1, 1.1, 1.2, 1.1, 1.1, 1.2]], "whose mask covers no pixel"),
    ],
)
def test_an_object_that_cannot_be_used_costs_itself(collection, category, parts, reason):
    image = collection.image("a.png", "x")
    collection.add(image, category, parts, "shape 3")
    collection.add(image, 7, [SQUARE], "shape 4")  # The number of a class is its name.
    content = collection.content()
    assert len(content["annotations"]) == 1 and content["categories"][0]["name"] == "7"
    assert f"objects left out, {reason}: object shape 3" in lines(collection)
    assert collection.is_whole  # No image is missing.


def test_boxes_without_masks(collection):
    image = collection.image("a.png", "x")
    collection.add_box(image, "a", [50.0, 30.0, 20.0, 20.0], "box 1")
    collection.add_box(image, "a", [60.0, 0.0, 5.0, 5.0], "box 2")
    collection.add_box(image, "", [0.0, 0.0, 5.0, 5.0], "box 3")
    (found,) = collection.content()["annotations"]
    assert found["bbox"] == [50, 30, 20, 20] and found["area"] == 100  # The part in the image.
    assert "segmentation" not in found
    told = lines(collection)
    assert "whose box has no area in the image: object box 2" in told
    assert "with a box only, which a model with masks cannot learn from: object box 1" in told
    assert "whose class has no name: object box 3" in told


@pytest.mark.parametrize(
    "name, size, reason",
    [
        ("none.png", (None, None), "whose file is not in "),
        ("text.png", (None, None), "whose file cannot be read"),
        ("a.png", (WIDTH, HEIGHT), "whose annotations are for another size than that of the file"),
        ("", (None, None), "which have no file name"),
        (None, (None, None), "which have no file name"),
    ],
)
def test_an_image_that_cannot_be_used_is_counted(tmp_path, collection, name, size, reason):
    (tmp_path / "text.png").write_text("no image")
    assert collection.image(name, "x.json", size) is None
    assert f"images left out, {reason}" in lines(collection) and not collection.is_whole
    with pytest.raises(ValueError, match="no image can be used, --images DIR says where they are"):
        collection.content()


def test_without_an_object_there_is_no_category(collection):
    assert collection.image("a.png", "x", (HEIGHT, WIDTH)) is not None
    with pytest.raises(ValueError, match="there is no object, and so no category"):
        collection.content()


def test_a_broken_json_file_is_counted(tmp_path, collection):
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.json").write_text("{")
    assert collection.json(tmp_path / "a.json", "a.json") == {"a": 1} and collection.is_whole
    assert collection.json(tmp_path / "b.json", "b.json") is None and not collection.is_whole
    assert "files left out, which cannot be read: file b.json (" in lines(collection)


def test_names_that_differ_in_notation_only_are_told(collection):
    image = collection.image("a.png", "x")
    for name in ("Cat", "cat ", "dog"):
        collection.add(image, name, [SQUARE], name)
    assert len(collection.content()["categories"]) == 3
    assert "2 categories with a name that differs" in lines(collection)
