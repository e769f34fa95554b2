import copy
import json
import logging
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_masks

from maskrcnn_jax.data import rle
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]  # Columns 2 to 5, rows 1 to 4.


def annotation(annotation_id, image_id=10, **changes):
    fields = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 7,
        "bbox": [2, 1, 4, 4],
        "iscrowd": 0,
    }
    return fields | {"segmentation": [list(SQUARE)]} | changes


@pytest.fixture
def content():
    """Two images of 8x10, one without objects; the category ids have a gap and are not sorted."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 10} for i in (10, 20)]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "annotations": [annotation(1)], "categories": categories}


@pytest.fixture
def open_dataset(tmp_path):
    def write_and_open(content, keep_empty=True, **options):
        for entry in content["images"]:
            if isinstance(entry, dict) and "file_name" in entry:
                Image.fromarray(np.full((8, 10, 3), 50, np.uint8)).save(
                    tmp_path / str(entry["file_name"])
                )
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return CocoDataset(tmp_path, tmp_path / "instances.json", keep_empty=keep_empty, **options)

    return write_and_open


def test_an_example_by_hand(open_dataset, content):
    content["annotations"].append(annotation(2, category_id=3, bbox=[0.5, 0, 3, 2.25]))
    dataset = open_dataset(content)
    example = dataset[0]
    assert (
        len(dataset) == 2
        and dataset.image_ids.tolist() == [10, 20]
        and dataset.sizes.tolist() == [[8, 10]] * 2
    )
    assert (
        example.image.shape == (8, 10, 3)
        and example.image.dtype == np.uint8
        and example.image_id == 10
    )
    assert example.boxes.dtype == np.float32 and example.boxes.tolist() == [
        [2, 1, 6, 5],
        [0.5, 0, 3.5, 2.25],
    ]
    assert example.classes.dtype == np.int32 and example.classes.tolist() == [2, 1]
    assert example.masks == [[SQUARE], [SQUARE]]
    empty = dataset[1]
    assert empty.boxes.shape == (0, 4) and empty.classes.shape == (0,) and empty.masks == []


def test_labels_number_the_categories_by_ascending_id(open_dataset, content):
    categories = open_dataset(content).categories
    assert categories == Categories((3, 7), ("dog", "cat"))
    assert [categories.label(i) for i in (3, 7)] == [1, 2]
    assert [categories.category_id(label) for label in (1, 2)] == [3, 7]
    assert categories.name(2) == "cat" and len(categories) == 2
    assert Categories.from_json(json.loads(json.dumps(categories.to_json()))) == categories


def test_labels_follow_a_given_map(open_dataset, content):
    dataset = open_dataset(content, categories=Categories((7, 3), ("cat", "dog")))
    assert dataset[0].classes.tolist() == [1]
    with pytest.raises(ValueError, match="annotation id 1.*unknown category id 7"):
        open_dataset(content, categories=Categories((3,), ("dog",)))


def test_images_with_nothing_to_learn_from_leave_on_request(open_dataset, content):
    content["annotations"].append(annotation(2, image_id=20, bbox=[2, 1, 1, 4]))  # One pixel wide.
    assert open_dataset(content, keep_empty=False).image_ids.tolist() == [10]
    content["annotations"].append(annotation(3, image_id=20, bbox=[2, 1, 1.5, 4]))
    assert open_dataset(content, keep_empty=False).image_ids.tolist() == [10, 20]
    content["annotations"] = []
    assert len(open_dataset(content, keep_empty=False)) == 0
    assert open_dataset(content, keep_empty=False).sizes.shape == (0, 2)


def test_any_object_can_be_a_reason_to_train_on_an_image(open_dataset, content):
    content["annotations"].append(annotation(2, image_id=20, bbox=[2, 1, 0.5, 4]))
    assert open_dataset(content, keep_empty=False).image_ids.tolist() == [10]
    kept = {"keep_empty": False, "keep_rule": "any"}
    assert open_dataset(content, **kept).image_ids.tolist() == [10, 20]
    content["annotations"][1]["iscrowd"] = 1
    assert open_dataset(content, **kept).image_ids.tolist() == [10]


def test_small_images_leave_on_request(open_dataset, content):
    """The images are 8 pixels high and 10 wide."""
    for min_side, count in ((0, 2), (8, 2), (9, 0)):
        assert len(open_dataset(content, min_side=min_side)) == count
    assert (
        "2 images have a side below 9 pixels (data.min_side)"
        in open_dataset(content, min_side=9).why_empty
    )


def test_crowds_are_left_out(open_dataset, content):
    content["annotations"] = [
        annotation(1, iscrowd=1, segmentation={"size": [8, 10], "counts": [0, 80]})
    ]
    assert len(open_dataset(content)[0].boxes) == 0
    assert len(open_dataset(content, keep_empty=False)) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"segmentation": {"size": [8, 10], "counts": [0, 79]}},
        {"segmentation": {"size": [10, 8], "counts": [0, 80]}},
        {"segmentation": [[1, 1, 4, 4]]},
        {"segmentation": 5},
        {"bbox": [1, 2, 3]},
        {"iscrowd": "maybe"},
    ],
)
def test_a_malformed_crowd_is_named(open_dataset, content, caplog, fields):
    content["annotations"] = [annotation(1), annotation(55, iscrowd=1) | fields]
    assert len(open_dataset(content)[0].boxes) == 1
    assert re.search(r"instances\.json: annotations .*: annotation id 55", caplog.text)
    with pytest.raises(ValueError, match=r"instances\.json, read strictly: .* id 55"):
        open_dataset(content, strict=True)


def test_crowds_need_neither_a_box_nor_a_mask(open_dataset, content):
    content["annotations"] = [{"id": 1, "image_id": 10, "category_id": 7, "iscrowd": 1}]
    content["annotations"] += [
        annotation(2, iscrowd=None, area=None),
        annotation(3, iscrowd=1, segmentation=[]),
    ]
    assert len(open_dataset(content)[0].boxes) == 1


def test_boxes_are_clamped_and_empty_ones_counted_in_one_warning(open_dataset, content, caplog):
    nan, inf = float("nan"), float("inf")
    bad = [
        [3, 3, 0, 2],
        [3, 3, 2, -1],
        [10, 2, 3, 3],
        [-4, 2, 4, 3],
        [nan, 2, 3, 3],
        [1, 2, inf, 3],
    ]
    content["annotations"] = [annotation(i, bbox=box, area=9) for i, box in enumerate(bad)]
    content["annotations"] += [
        annotation(90, bbox=[-2, 5, 20, 20]),
        annotation(91, image_id=20, bbox=[1, 1, 0, 0]),
    ]
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(content)
    assert dataset[0].boxes.tolist() == [[0, 5, 10, 8]] and len(dataset[0].masks) == 1
    counted = "7 annotations left out, whose box is empty or not finite"
    assert f"{counted}: annotation id 0, 1, 2, 3, 4, 5, 91" in caplog.text


@pytest.mark.parametrize(
    "change", [{"segmentation": []}, {"segmentation": None}, {"segmentation": {}}, "missing"]
)
def test_an_object_without_a_mask_is_left_out_unless_a_box_is_enough(
    open_dataset, content, caplog, change
):
    content["annotations"] += [annotation(2), annotation(3, image_id=20, category_id=3)]
    for entry in content["annotations"][1:]:
        entry.update(change) if change != "missing" else entry.pop("segmentation")
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(content)
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "2 annotations left out, which have no mask: annotation id 2, 3"
    )
    assert dataset[0].masks == [[SQUARE]] and len(dataset[1].boxes) == 0
    assert [labels.tolist() for labels in dataset.labels] == [[2], []]
    caplog.clear()
    boxed = open_dataset(content, masks=False, keep_empty=False)
    assert not caplog.records
    assert boxed[0].masks == [[SQUARE], None] and boxed[0].boxes.tolist() == [[2, 1, 6, 5]] * 2
    assert boxed[1].masks == [None] and [labels.tolist() for labels in boxed.labels] == [
        [2, 2],
        [1],
    ]
    assert open_dataset(content, keep_empty=False).image_ids.tolist() == [10]


def test_an_object_with_neither_a_box_nor_a_mask_is_counted_once(open_dataset, content, caplog):
    content["annotations"].append(annotation(2, bbox=[1, 1, 0, 0], segmentation=[]))
    with caplog.at_level(logging.WARNING):
        open_dataset(content)
    (record,) = caplog.records
    assert "annotations left out, whose box is empty" in record.getMessage()


def test_annotations_are_the_content_of_the_file(open_dataset, content):
    assert open_dataset(content).annotations() == content


def test_run_length_masks_arrive_compressed(open_dataset, content):
    compressed = rle.encode([SQUARE], 8, 10)
    content["annotations"] = [
        annotation(1, segmentation=compressed),
        annotation(2, segmentation={"size": [8, 10], "counts": [17, 4, 4, 4, 4, 4, 4, 4, 35]}),
    ]
    assert open_dataset(content)[0].masks == [compressed, compressed]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[]],
        [[1, 1, 4, 4]],
        [[1, 1, 4, 4, 5, float("nan")]],
        [[1, 1, 4, 4, 5, "x"]],
        "nothing",
        5,
        {"size": [8, 10]},
        {"size": [10, 8], "counts": [80]},
        {"size": [8, 10], "counts": [79]},
        {"size": [8, 10], "counts": [90, -10]},
        {"size": [8, 10], "counts": [2**63 - 1, 2**63 - 1, 82]},
        {"size": [8, 10], "counts": [10**400]},
        {"size": [8, 10], "counts": [79.5, 0.5]},
        {"size": [8, 10], "counts": [[79, 1]]},
        {"size": [8, 10], "counts": [79, [1]]},
        {"size": [8, 10], "counts": ""},
        {"size": [8, 10], "counts": "zzz"},
        {"size": [8, 10], "counts": "!!"},
        {"size": [8, 10], "counts": "P" * 40 + "0"},
        {"size": [8, 10], "counts": "`R" + "P" * 10 + "0"},  # 80 with 50 bits of leading zeros.
        {"size": [8, 10], "counts": "\ud800"},
        {"size": [8, 10], "counts": rle.encode([SQUARE], 8, 10)["counts"][:-1]},
        {"size": [8, 10], "counts": rle.encode([SQUARE], 9, 10)["counts"]},
    ],
)
def test_a_malformed_mask_costs_its_annotation(open_dataset, content, caplog, segmentation):
    content["annotations"] = [annotation(1), annotation(55, segmentation=segmentation)]
    assert open_dataset(content)[0].masks == [[SQUARE]]
    (record,) = caplog.records
    assert re.search(r"instances\.json: annotations without a usable .* id 55$", record.message)
    assert len(open_dataset(content, masks=False)[0].boxes) == 2
    with pytest.raises(ValueError, match=r"instances\.json, read strictly.* id 55"):
        open_dataset(content, strict=True)


def _without(entries, key):
    del entries[key]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: _without(c["categories"][1], "name"), r"categories\[1\] \(id 3\) needs a name"),
        (lambda c: c["categories"].append({"id": 3, "name": "fox"}), r"\[3\] more than once"),
        (
            lambda c: c["categories"].append({"id": "b", "name": "fox"}),
            r"\[2\] needs a whole.*got b",
        ),
        (lambda c: c["categories"].append("fox"), r"categories\[2\]: expected an object.*got fox"),
        (lambda c: c.update(annotations={}), "expected a list under the key 'annotations', got {}"),
        (lambda c: _without(c, "categories"), "expected a list under the key 'categories'"),
    ],
)
def test_a_broken_annotation_file_is_named_with_the_place(open_dataset, content, change, message):
    content = copy.deepcopy(content)
    change(content)
    with pytest.raises(ValueError, match=r"instances\.json.*" + message):
        open_dataset(content)


def test_a_folder_that_is_not_there_is_named_when_the_set_is_opened(content, tmp_path):
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match="there is no image folder .*nowhere"):
        CocoDataset(tmp_path / "nowhere", tmp_path / "instances.json", keep_empty=True)


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 300 + ".png"])
def test_a_name_that_no_file_can_have_costs_its_image(open_dataset, content, tmp_path, name):
    content["images"][1]["file_name"] = "b.png"
    open_dataset(content)
    content["images"][1]["file_name"] = name
    (tmp_path / "instances.json").write_text(json.dumps(content))
    dataset = CocoDataset(tmp_path, tmp_path / "instances.json", keep_empty=True)
    with pytest.raises(OSError, match="image id 20: "):
        dataset.check(1)
    assert dataset[0].image_id == 10


def test_an_unreadable_image_is_named(open_dataset, content, tmp_path):
    dataset = open_dataset(content)
    (tmp_path / "10.png").write_text("no image")
    with pytest.raises(OSError, match="image id 10: .*10.png"):
        dataset[0]
    (tmp_path / "20.png").unlink()
    with pytest.raises(OSError, match="image id 20: .*20.png"):
        dataset[1]


def test_the_size_is_compared_after_the_exif_rotation(open_dataset, content, tmp_path):
    content["images"][0].update(height=10, width=8)
    content["annotations"] = []
    dataset = open_dataset(content)
    with pytest.raises(
        ValueError, match=r"10\.png \(image id 10\) is 8x10 .* says 10x8.*width for height.*EXIF"
    ):
        dataset[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(tmp_path / "10.png", exif=exif)
    assert dataset[0].image.shape == (10, 8, 3)


@pytest.mark.parametrize(
    "folder, split, num_images, num_objects, num_categories",
    [
        # Type checks make this one slow.
        pytest.param("nuclei", "train", 424, 15267, 1, marks=pytest.mark.slow),
        ("nuclei", "val", 102, 3663, 1),
        ("coco_subset", "train", 80, 761, 80),
        ("coco_subset", "val", 57, 510, 80),
        ("fruits_nuts", "train", 18, 165, 3),
    ],
)
def test_real_data(shared, folder, split, num_images, num_objects, num_categories):
    where = shared / "data" / folder
    dataset = CocoDataset(where / split, where / f"instances_{split}.json", keep_empty=True)
    assert (len(dataset), len(dataset.categories)) == (num_images, num_categories)
    assert sum(len(record.boxes) for record in dataset._records) == num_objects
    for example in (dataset[0], dataset[num_images // 2], dataset[-1]):
        height, width, _ = example.image.shape
        for box, mask in list(zip(example.boxes, example.masks, strict=True))[:10]:
            pixels = rle.decode(mask, height, width)
            assert pixels.sum() == rle_masks.area(rle.encode(mask, height, width))
            rows, columns = np.nonzero(pixels)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, tight, atol=3)  # Rasterisation rounds to pixels.


@pytest.mark.parametrize("split, num_filled", [("train", 79), ("val", 55)])
def test_real_images_without_objects_leave(shared, split, num_filled):
    where = shared / "data" / "coco_subset"
    assert (
        len(CocoDataset(where / split, where / f"instances_{split}.json", keep_empty=False))
        == num_filled
    )
