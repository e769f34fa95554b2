"""The summary of a small annotation file equals the counts by hand."""

import pytest

from maskrcnn_jax.data import rle, summary
from maskrcnn_jax.data.shapes import ShapesDataset


def rectangle(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(number, image_id, bbox, category_id=7, mask_box=None, **more):
    mask = rectangle(*(mask_box or bbox))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "segmentation": mask,
    } | more


@pytest.fixture
def content():
    """Image 1 has three cats and a dog, 2 a crowd, 3 a dog one pixel high, and 4 nothing."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 50} for i in (1, 2, 3, 4)
        ],
        "annotations": [
            annotation(1, 1, [0, 0, 10, 10]),
            annotation(2, 1, [20, 0, 10, 10]),
            annotation(3, 1, [45, 35, 20, 20]),  # This box is partly outside.
            annotation(4, 1, [0, 20, 10, 10], category_id=9),
            {"id": 5, "image_id": 2, "category_id": 7, "iscrowd": 1},
            annotation(6, 3, [0, 0, 10, 1], category_id=9),
        ],
        "categories": [
            {"id": 9, "name": "dog"},
            {"id": 7, "name": "cat"},
            {"id": 2, "name": "owl"},
        ],
    }


def test_counts(content):
    found = summary.summarize(content, max_instances=100)
    assert (found.num_images, found.num_instances, found.num_crowds, found.num_surplus) == (
        4,
        5,
        1,
        0,
    )
    assert found.categories == [(7, "cat", 3, 1), (9, "dog", 2, 2), (2, "owl", 0, 0)]
    assert found.empty == [2, 3, 4]
    assert summary.summarize(content, 100, "any").empty == [2, 4]
    assert found.dropped == found.apart == found.overfull == []


def test_too_few_slots(content):
    found = summary.summarize(content, max_instances=3)
    assert found.overfull == [1] and found.num_surplus == 1
    assert summary.summarize(content, max_instances=4).overfull == []


@pytest.mark.parametrize(
    "bbox", [[5, 5, 0, 10], [60, 5, 10, 10], [5, -10, 10, 10], [0, 0, float("nan"), 5]]
)
def test_boxes_without_extent_are_dropped(content, bbox):
    content["annotations"].append(annotation(7, 4, bbox, mask_box=[0, 0, 5, 5]))
    found = summary.summarize(content, max_instances=100)
    assert (
        found.dropped == [7] and found.num_instances == 5 and 4 in found.empty and found.apart == []
    )


def test_a_box_given_by_its_corners_does_not_fit_its_mask(content):
    content["annotations"].append(annotation(7, 4, [20, 20, 30, 30], mask_box=[20, 20, 10, 10]))
    content["annotations"].append(annotation(8, 4, [20, 20, 12, 10], mask_box=[20, 20, 10, 10]))
    assert summary.summarize(content, max_instances=100).apart == [7]


@pytest.mark.parametrize("mask", [{"segmentation": []}, {"segmentation": None}, {}])
def test_objects_without_a_mask_are_counted_apart(content, mask):
    boxed = annotation(7, 4, [20, 20, 10, 10])
    del boxed["segmentation"]
    content["annotations"].append(boxed | mask)
    found = summary.summarize(content, max_instances=100)
    assert (
        found.unmasked == [7]
        and found.num_instances == 5
        and 4 in found.empty
        and found.apart == []
    )


def test_run_lengths_have_a_box_too(content):
    mask = rle.encode(rectangle(20, 20, 10, 10), 40, 50)
    content["annotations"].append(annotation(7, 4, [20, 20, 10, 10]) | {"segmentation": mask})
    content["annotations"].append(annotation(8, 4, [0, 0, 10, 10]) | {"segmentation": mask})
    assert summary.summarize(content, max_instances=100).apart == [8]


def test_the_synthetic_set_has_nothing_wrong():
    found = summary.summarize(ShapesDataset(10, 64, 0).annotations(), max_instances=8)
    assert found.num_images == 10 and found.num_instances > 20
    assert found.dropped == found.apart == found.overfull == []
