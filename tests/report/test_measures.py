"""The counts of a report, against hand counts and against a slow matching at each threshold."""

import json

import numpy as np
import pytest

from maskrcnn_jax import coco_metrics
from maskrcnn_jax.report import measures
from tests.report import samples


def test_counts_by_hand():
    data = measures.measure(*samples.by_hand(), 100)
    assert [measures.mistakes(image, 0.5) for image in data["images"]] == [
        (1, 1),
        (1, 0),
        (0, 3),
        (0, 0),
    ]
    assert [measures.mistakes(image, 0.3) for image in data["images"]] == [
        (1, 1),
        (0, 0),
        (0, 3),
        (0, 1),
    ]
    assert [measures.mistakes(image, 1.0) for image in data["images"]] == [
        (2, 0),
        (1, 0),
        (0, 0),
        (1, 0),
    ]
    assert [image["name"] for image in data["images"]] == [
        samples.FILES[1],
        "crowd's.jpg",
        "image 5",
        'b"&amp;.jpg',
    ]
    assert data["images"][1]["objects"]["class"] == [1]  # The crowd does not count.
    assert data["images"][1]["detections"]["segm"] == [-1, 1]
    assert data["images"][3]["detections"]["score"] == [500, 1000, 499]
    assert [entry["objects"] for entry in data["classes"]] == [2, 3, 0] and data["overall"][
        "objects"
    ] == 5


def test_histograms_have_bins_of_a_twentieth():
    cats, dogs, none = measures.measure(*samples.by_hand(), 100)["classes"]
    assert np.flatnonzero(cats["segm"]["correct"]).tolist() == [18]
    assert {i: n for i, n in enumerate(cats["segm"]["false"]) if n} == {11: 1, 12: 1, 14: 1, 16: 1}
    # 1.0 is in the last bin.
    assert {i: n for i, n in enumerate(dogs["bbox"]["correct"]) if n} == {
        6: 1,
        10: 1,
        19: 1,
    }
    assert {i: n for i, n in enumerate(dogs["bbox"]["false"]) if n} == {9: 1}
    assert sum(none["segm"]["correct"] + none["segm"]["false"]) == 0


def test_masks_and_boxes_are_matched_apart():
    box, lower, upper = (0, 0, 40, 40), [0, 0, 40, 0, 0, 40], [40, 0, 40, 40, 0, 40]
    objects = [samples.entry(1, 3, box, outline=lower)]
    annotations = samples.dataset(objects, {1: "a.jpg"}, samples.SIZE, samples.NAMES)
    result = samples.entry(1, 3, box, outline=upper, score=0.9)
    columns = measures.measure(annotations, [result], 100)["images"][0]
    assert columns["objects"]["segm"] == [-1] and columns["objects"]["bbox"] == [900]
    assert columns["detections"]["segm"] == [0] and columns["detections"]["bbox"] == [1]


def test_without_masks_all_numbers_are_those_of_boxes():
    annotations, results = samples.by_hand()
    with_masks = measures.measure(annotations, results, 100)
    for entry in [*annotations["annotations"], *results]:
        if not entry.get("iscrowd"):
            entry.pop("segmentation")
    data = measures.measure(annotations, results, 100, masks=False)
    assert data["kinds"] == ["bbox"] and with_masks["kinds"] == ["segm", "bbox"]
    assert data["numbers"] == {"bbox": with_masks["numbers"]["bbox"]}
    for ours, theirs in zip(data["classes"], with_masks["classes"], strict=True):
        assert ours == {key: value for key, value in theirs.items() if key != "segm"}
    by_box = [
        (sum(score < 500 for score in image["objects"]["bbox"]), image["detections"]["bbox"])
        for image in with_masks["images"]
    ]
    for image, (missed, outcomes) in zip(data["images"], by_box, strict=True):
        assert measures.mistakes(image, 0.5)[0] == missed
        assert image["detections"]["bbox"] == outcomes


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_the_evaluation(seed):
    annotations, results = samples.random(seed)
    data = json.loads(json.dumps(measures.measure(annotations, results, 100), allow_nan=False))
    for kind in ("bbox", "segm"):
        numbers = coco_metrics.coco_summary(annotations, results, kind)
        assert data["numbers"][kind] == {
            name: None if x == -1 else pytest.approx(x) for name, x in numbers.items()
        }
        overall = data["overall"][kind]["ap"]
        assert [overall[name] for name in ("IoU 0.5:0.95", "IoU 0.5", "IoU 0.75")] == pytest.approx(
            [numbers[name] for name in ("AP", "AP50", "AP75")]
        )
        per_class = coco_metrics.per_class_ap(annotations, results, kind)
        found = {entry["name"]: entry[kind]["ap"]["IoU 0.5:0.95"] for entry in data["classes"]}
        assert found == {
            name: None if x == -1 else pytest.approx(x) for name, x in per_class.items()
        }
        assert 0.05 < numbers["AP"] < 0.95


def test_curves_by_hand():
    # The best cat detection finds one of two cats: precision 1 up to recall 0.5.
    cats, _, none = measures.measure(*samples.by_hand(), 100)["classes"]
    assert cats["segm"]["curves"]["IoU 0.5"] == [1000] * 51 + [0] * 50
    assert none["segm"] == {
        "ap": dict.fromkeys(measures._CURVES),
        "curves": dict.fromkeys(measures._CURVES),
    } | {
        "correct": [0] * 20,
        "false": [0] * 20,
    }


def slow_mistakes(annotations, results, image_id, threshold):
    """Matches the detections above a threshold greedily, without all other detections."""
    missed = false = 0
    for category in annotations["categories"]:
        mine = [
            [x for x in entries if x["image_id"] == image_id and x["category_id"] == category["id"]]
            for entries in (annotations["annotations"], results)
        ]
        objects = [x for x in mine[0] if not x["iscrowd"]]
        crowds = [x for x in mine[0] if x["iscrowd"]]
        for detection in sorted(mine[1], key=lambda x: -x["score"]):
            if detection["score"] < threshold:
                continue
            best = max(objects, key=lambda x: overlap(detection, x), default=None)
            if best is not None and overlap(detection, best) >= 0.5:
                objects.remove(best)
            elif all(overlap(detection, crowd, of_detection=True) < 0.5 for crowd in crowds):
                false += 1
        missed += len(objects)
    return missed, false


def overlap(detection, other, of_detection=False):
    (ax, ay, aw, ah), (bx, by, bw, bh) = detection["bbox"], other["bbox"]
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    shared = max(width, 0) * max(height, 0)
    return shared / (aw * ah if of_detection else aw * ah + bw * bh - shared)


@pytest.mark.parametrize("seed", range(6))
def test_mistakes_equal_a_slow_matching_at_any_threshold(seed):
    annotations, results = samples.random(seed)
    images = measures.measure(annotations, results, 100)["images"]
    for threshold in (0.05, 0.3, 0.5, 0.75):
        expected = [slow_mistakes(annotations, results, image["id"], threshold) for image in images]
        assert [measures.mistakes(image, threshold) for image in images] == expected


def test_no_detections():
    annotations, _ = samples.by_hand()
    data = measures.measure(annotations, [], 100)
    assert [measures.mistakes(image, 0.5) for image in data["images"]] == [
        (2, 0),
        (1, 0),
        (0, 0),
        (2, 0),
    ]
    assert data["overall"]["segm"]["ap"]["IoU 0.5"] == 0


def test_detections_beyond_the_limit_count_for_nothing():
    annotations, results = samples.by_hand()
    cats = measures.measure(annotations, results, 2)["images"][2]["detections"]
    assert cats["segm"] == cats["bbox"] == [0, 0, -1]
