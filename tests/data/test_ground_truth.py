"""Both evaluators accept completed annotation files that lacked fields."""

import copy
import json
import logging

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import coco_metrics
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import ground_truth, rle, sources

SIZE = (40, 60)


def square(x, side=10):
    """Returns a square whose upper left corner is at (x, 5), as polygons."""
    return [[x, 5, x + side, 5, x + side, 5 + side, x, 5 + side]]


def sparse():
    """Annotations that lack fields: an object, a crowd with only a mask, and two without a mask."""
    where = {"image_id": 1, "category_id": 7}
    found = [
        {"id": 1, "bbox": [2, 5, 10, 10], "segmentation": square(2)},
        {"id": 2, "iscrowd": 1, "segmentation": rle.encode(square(30, side=20), *SIZE)},
        {"id": 3, "iscrowd": 1},
        {"id": 4, "iscrowd": 1, "segmentation": [], "bbox": [0, 0, 5, 5]},
    ]
    images = [{"id": 1, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1]}]
    categories = [{"id": 7, "name": "cat"}]
    return {
        "images": images,
        "annotations": [where | entry for entry in found],
        "categories": categories,
    }


def detections():
    """A detection of the object, and one of higher score that is correct only due to the crowd."""
    return [
        {
            "image_id": 1,
            "category_id": 7,
            "bbox": [x, 5, 10, 10],
            "score": score,
            "segmentation": rle.encode(square(x), *SIZE),
        }
        for x, score in ((2, 0.8), (35, 0.9))
    ]


@pytest.mark.parametrize("evaluator", ["faster-coco-eval", "pycocotools"])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_sparse_file_is_evaluated(tmp_path, monkeypatch, caplog, evaluator, iou_type):
    if evaluator == "pycocotools":
        monkeypatch.setattr(coco_metrics, "faster_coco_eval", None)
    else:
        assert coco_metrics.faster_coco_eval is not None
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "1.png")
    (tmp_path / "val.json").write_text(json.dumps(sparse()))
    config = DataConfig(val_images=str(tmp_path), val_annotations=str(tmp_path / "val.json"))
    with caplog.at_level(logging.WARNING):
        _, annotations = sources.open_val(config)
    numbers = coco_metrics.coco_summary(annotations, detections(), iou_type)
    assert [numbers[name] for name in ("AP", "APs", "APm")] == pytest.approx([1, 1, -1])
    assert caplog.records[-1].getMessage() == (
        "dropped 2 crowds without a mask, which an evaluation cannot read, in 1 images: 1"
    )


def test_what_is_missing_comes_from_the_mask():
    content = sparse()
    content["annotations"][1]["bbox"] = [float("nan"), 0, 1, 1]
    before = copy.deepcopy(content)
    annotated, crowd = ground_truth.complete(content)["annotations"]
    assert annotated == content["annotations"][0] | {"iscrowd": 0, "area": 100}
    assert crowd == content["annotations"][1] | {"iscrowd": 1, "area": 400, "bbox": [30, 5, 20, 20]}
    np.testing.assert_equal(content, before)


def test_what_is_there_stays():
    content = sparse()
    content["annotations"] = [
        content["annotations"][0] | {"iscrowd": 0, "area": 3.5, "bbox": [1, 2, 3, 4]}
    ]
    assert ground_truth.complete(content) == content


def test_objects_without_a_mask_are_no_ground_truth_for_masks(caplog):
    content = sparse()
    boxed = {
        key: value for key, value in content["annotations"][0].items() if key != "segmentation"
    }
    content["annotations"] = [
        content["annotations"][0],
        boxed | {"id": 5},
        boxed | {"id": 6, "segmentation": []},
    ]
    with caplog.at_level(logging.WARNING):
        assert [entry["id"] for entry in ground_truth.complete(content)["annotations"]] == [1]
    assert not caplog.records  # The data set has warned of them already.


def test_for_boxes_alone_a_box_is_enough(caplog):
    content = sparse()
    boxed = {
        key: value for key, value in content["annotations"][0].items() if key != "segmentation"
    }
    content["annotations"].append(boxed | {"id": 5, "bbox": [3, 4, 5, 6]})
    with caplog.at_level(logging.WARNING):
        found = {
            entry["id"]: entry
            for entry in ground_truth.complete(content, masks=False)["annotations"]
        }
    assert list(found) == [1, 2, 4, 5]
    assert found[5] == content["annotations"][-1] | {"iscrowd": 0, "area": 30}
    assert found[4] == content["annotations"][3] | {"area": 25}  # The crowd with a box.
    assert found[2]["bbox"] == [30, 5, 20, 20]  # The crowd with a mask.
    assert [record.getMessage() for record in caplog.records] == [
        "dropped 1 crowds without a mask or a box, which an evaluation cannot read, in 1 images: 1"
    ]


@pytest.mark.parametrize("evaluator", ["faster-coco-eval", "pycocotools"])
def test_boxes_without_masks_are_evaluated(monkeypatch, evaluator):
    if evaluator == "pycocotools":
        monkeypatch.setattr(coco_metrics, "faster_coco_eval", None)
    content = sparse()
    content["annotations"] = [{**content["annotations"][0], "segmentation": []}]
    annotations = ground_truth.complete(content, masks=False)
    found = [{key: value for key, value in detections()[0].items() if key != "segmentation"}]
    assert coco_metrics.coco_summary(annotations, found, "bbox")["AP"] == pytest.approx(1)


@pytest.mark.parametrize("area", [0, -1, float("nan"), 10**9, 145])
def test_an_area_that_the_object_cannot_have_comes_from_the_mask(caplog, area):
    content = sparse()
    content["annotations"] = [content["annotations"][0] | {"area": area, "iscrowd": 0}]
    (found,) = ground_truth.complete(content)["annotations"]
    assert found["area"] == 100
    (record,) = caplog.records
    message = "1 annotations have an area that their objects cannot have"
    assert record.getMessage().startswith(message)
    assert record.getMessage().endswith("annotation id 1")


@pytest.mark.parametrize("area", [1, 99.5, 144])
def test_other_areas_stay(caplog, area):
    content = sparse()
    content["annotations"] = [content["annotations"][0] | {"area": area, "iscrowd": 0}]
    assert ground_truth.complete(content)["annotations"][0]["area"] == area
    assert not caplog.records
