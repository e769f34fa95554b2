"""LVIS: its extra fields, its file names, and AP by its rule, against counting by hand."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import coco_metrics
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import lvis, sources
from maskrcnn_jax.report import measures

BOX = [10.0, 10.0, 40.0, 40.0]


def annotations(num_images=2):
    """Category 1 is in all images; 2 is known to be absent in the first; 3 has no label."""
    images = [
        {
            "id": i,
            "height": 64,
            "width": 80,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        }
        for i in range(1, num_images + 1)
    ]
    images[0]["neg_category_ids"] = [2]
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": BOX, "area": 1600.0, "iscrowd": 0}
        for i in range(1, num_images + 1)
    ]
    for entry in objects:
        x0, y0, x1, y1 = 10, 10, 50, 50
        entry["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    names = zip((1, 2, 3), "abc", "fcr", strict=True)
    categories = [{"id": i, "name": name, "frequency": f} for i, name, f in names]
    return {"images": images, "annotations": objects, "categories": categories}


def found(image_id, category_id, score, box=BOX):
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def summary(truth, results):
    return coco_metrics.coco_summary(truth, results, "bbox", 300)


def test_categories_without_labels_in_an_image_do_not_count():
    truth = annotations()
    right = [found(1, 1, 0.9), found(2, 1, 0.8)]
    assert summary(truth, right)["AP"] == pytest.approx(1)
    # Nobody knows whether the second image has 2, or any has 3.
    unknown = [found(2, 2, 0.99), found(1, 3, 0.99)]
    assert summary(truth, right + unknown) == summary(truth, right)


def test_a_false_positive_counts_where_the_labels_are_exhaustive():
    truth, far = annotations(), [0.0, 0.0, 9.0, 9.0]
    results = [found(1, 1, 0.9), found(2, 1, 0.8), found(2, 1, 0.95, far)]
    assert summary(truth, results)["AP"] < 0.8
    truth["images"][1]["not_exhaustive_category_ids"] = [1]
    assert summary(truth, results)["AP"] == pytest.approx(1)


def test_ap_by_frequency():
    truth = annotations()
    truth["annotations"].append(truth["annotations"][0] | {"id": 9, "category_id": 2})
    truth["images"][0]["neg_category_ids"] = []
    numbers = summary(truth, [found(1, 1, 0.9), found(2, 1, 0.8)])
    assert numbers["APf"] == pytest.approx(1) and numbers["APc"] == 0 and numbers["APr"] == -1
    assert numbers["AP"] == pytest.approx(0.5)
    assert len(numbers) == 15


def test_the_best_of_an_image_count_over_all_categories():
    truth = annotations(1)
    wrong = [found(1, 2, 0.9 + i / 1000) for i in range(5)]
    numbers = [
        coco_metrics.coco_summary(truth, [*wrong, found(1, 1, 0.5)], "bbox", limit)
        for limit in (5, 6)
    ]
    assert numbers[0]["APf"] == 0 and numbers[1]["APf"] == pytest.approx(1)


def test_coco_is_no_lvis():
    truth = annotations()
    for entry in (*truth["images"], *truth["categories"]):
        for name in (*lvis.FIELDS, "frequency"):
            entry.pop(name, None)
    assert not lvis.is_lvis(truth)
    assert "APr" not in summary(truth, [found(1, 1, 0.9)])


def without(truth, entries, position, name):
    del truth[entries][position][name]
    return truth


@pytest.mark.parametrize(
    ("entries", "name", "message"),
    [
        ("images", "neg_category_ids", "image id 2 has no list neg_category_ids"),
        ("images", "not_exhaustive_category_ids", "image id 2 has no list not_exhaustive"),
        ("categories", "frequency", "category id 2 has no frequency"),
    ],
)
def test_a_file_without_some_of_its_extra_fields_is_refused(entries, name, message):
    truth = annotations()
    assert lvis.is_lvis(truth)
    with pytest.raises(ValueError, match=re.escape(message)):
        lvis.is_lvis(without(truth, entries, 1, name))


@pytest.mark.parametrize("exhaustive", [True, False])
def test_without_faster_coco_eval_the_numbers_are_the_same(monkeypatch, exhaustive):
    truth, far = annotations(3), [0.0, 0.0, 9.0, 9.0]
    truth["images"][2]["not_exhaustive_category_ids"] = [] if exhaustive else [1]
    results = [found(1, 1, 0.9), found(3, 1, 0.95, far), found(2, 2, 0.99), found(2, 1, 0.2)]
    fast = summary(truth, results)
    monkeypatch.setattr(coco_metrics, "faster_coco_eval", None)
    assert summary(truth, results) == pytest.approx(fast)
    assert (fast["AP"] < 0.6) == exhaustive and len(fast) == 15


def test_a_report_counts_what_the_labels_can_judge():
    """A duplicate and a category that nobody looked for count for nothing in the second image."""
    truth = annotations()
    truth["images"][1]["not_exhaustive_category_ids"] = [1]
    results = [
        found(2, 3, 0.99),
        found(1, 1, 0.9),
        found(2, 1, 0.8),
        found(2, 1, 0.7),
        found(1, 1, 0.6),
        found(1, 2, 0.5),
        found(1, 2, 0.4),
    ]
    data = measures.measure(truth, results, 4, masks=False)
    first, second = data["images"]
    assert first["detections"]["bbox"] == [1, 0, 0, 0] and second["detections"]["bbox"] == [
        -1,
        1,
        -1,
    ]
    assert second["detections"]["index"] == [0, 2, 3]
    assert [measures.mistakes(image, 0.1) for image in data["images"]] == [(0, 3), (0, 0)]
    assert data["numbers"]["bbox"] == {
        name: None if x == -1 else pytest.approx(x)
        for name, x in coco_metrics.coco_summary(truth, results, "bbox", 4).items()
    }
    best = measures.measure(truth, results, 2, masks=False)["images"][0]["detections"]["bbox"]
    assert best == [1, 0, -1, -1]


@pytest.mark.parametrize("folder", [".", "train2017"])
def test_files_are_found_by_their_address(tmp_path, folder):
    truth = annotations(1)
    truth["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000001.png"
    (tmp_path / "train2017").mkdir()
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / "train2017/000000000001.png")
    (tmp_path / "lvis.json").write_text(json.dumps(truth))
    config = DataConfig(
        val_images=str(tmp_path / folder), val_annotations=str(tmp_path / "lvis.json")
    )
    dataset, content = sources.open_val(config)
    assert dataset[0].image.shape == (64, 80, 3)
    assert lvis.is_lvis(content)
    truth["images"][0].pop("neg_category_ids")
    (tmp_path / "lvis.json").write_text(json.dumps(truth))
    with pytest.raises(ValueError, match="image id 1 has no list neg_category_ids"):
        sources.open_val(config)
