"""The map between labels and categories."""

import json

import jaxtyping
import pytest

from maskrcnn_jax.data.categories import Categories


def test_categories_refuse_background_and_strangers():
    categories = Categories((3, 7), ("dog", "cat"))
    for label in (0, 3, -1):
        for function in (categories.category_id, categories.name):
            with pytest.raises(ValueError, match=f"a label from 1 to 2, got {label}"):
                function(label)
    with pytest.raises(ValueError, match="unknown category id 5"):
        categories.label(5)
    with pytest.raises(ValueError, match=r"\[3\] more than once"):
        Categories((3, 3), ("dog", "cat"))
    with pytest.raises(ValueError, match="2 ids, 1 names"):
        Categories((3, 7), ("dog",))


def test_labels_ids_and_names_belong_together():
    categories = Categories((7, 3), ("cat", "dog"))
    assert len(categories) == 2
    for label, (category_id, name) in enumerate(((7, "cat"), (3, "dog")), start=1):
        assert categories.label(category_id) == label
        assert categories.category_id(label) == category_id and categories.name(label) == name


def test_coco_with_and_without_unused_ids():
    both, coco = Categories.torchvision_coco(), Categories.coco()
    assert both.ids == tuple(range(1, 91)) and both.names.count("N/A") == 10
    assert len(coco) == 80 and "N/A" not in coco.names
    # The ends and a place behind the first gap, from COCO's own list.
    for category_id, name in ((1, "person"), (13, "stop sign"), (90, "toothbrush")):
        assert both.name(both.label(category_id)) == coco.name(coco.label(category_id)) == name
    assert [both.label(13), coco.label(13), coco.label(90)] == [13, 12, 80]


def test_labels_of_unknown_meaning():
    assert Categories.numbered(2) == Categories((1, 2), ("class 1", "class 2"))
    assert len(Categories.numbered(0)) == 0


def test_json_keeps_the_order_of_the_labels():
    categories = Categories((7, 3), ("cat", "dog"))
    written = json.loads(json.dumps(categories.to_json()))
    assert written == [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    assert Categories.from_json(written) == Categories.checked(written) == categories
    with pytest.raises(KeyError, match="name"):
        Categories.from_json([{"id": 7}])


@pytest.mark.parametrize(
    "category", [{"id": "7", "name": "a"}, {"id": True, "name": "a"}, {"id": 7, "name": None}]
)
def test_categories_of_a_strangers_file_are_checked(category, monkeypatch):
    # Annotations are only checked in tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="expected numbers as ids and text as names"):
        Categories.checked([category])
    with pytest.raises(TypeError):
        Categories.checked(["cat"])
