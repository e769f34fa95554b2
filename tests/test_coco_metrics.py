"""COCO numbers against pycocotools and by hand."""

import copy

import numpy as np
import pytest
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_jax import coco_metrics, pasting
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.categories import Categories

NAMES = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()
CATEGORY_IDS = (3, 7, 12)


def ellipse(box, size):
    """Run lengths of the ellipse inside a box, whose area differs from the box's."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    x0, y0, x1, y1 = box
    inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 < 1
    rle = rle_codec.encode(np.asfortranarray(inside))
    return {"size": list(size), "counts": rle["counts"].decode()}


def random_set(seed, *, num_images=6, num_objects=8, num_results=14, size=(160, 200)):
    """Random ground truth with crowds and all sizes, and detections near and far from objects."""
    rng = np.random.default_rng(seed)

    def random_box():
        extent = rng.choice([12, 50, 150], p=[0.4, 0.4, 0.2]) * rng.uniform(0.8, 1, 2)
        low = rng.uniform(0, np.maximum((size[1], size[0]) - extent, 1))
        return np.concatenate([low, low + extent])

    def entry(box, **fields):
        x0, y0, x1, y1 = box.tolist()
        return {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": ellipse(box, size), **fields}

    objects, results = [], []
    for image_id in range(1, num_images + 1):
        boxes = [random_box() for _ in range(num_objects)]
        for box in boxes:
            fields = {
                "id": len(objects) + 1,
                "image_id": image_id,
                "iscrowd": int(rng.random() < 0.15),
            }
            objects.append(entry(box, category_id=int(rng.choice(CATEGORY_IDS)), **fields))
            objects[-1]["area"] = int(rle_codec.area(objects[-1]["segmentation"]))
        for i in range(num_results):
            box = boxes[i] + rng.normal(0, 2, 4) if i < num_objects else random_box()
            near = objects[i - num_objects]["category_id"] if i < num_objects else CATEGORY_IDS[0]
            category_id = near if rng.random() < 0.8 else int(rng.choice(CATEGORY_IDS))
            results.append(
                entry(box, image_id=image_id, category_id=category_id, score=float(rng.random()))
            )
    annotations = {
        "images": [
            {"id": i, "height": size[0], "width": size[1]} for i in range(1, num_images + 1)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in CATEGORY_IDS],
        "annotations": objects,
    }
    return annotations, results


@pytest.fixture(params=["faster-coco-eval", "pycocotools"], autouse=True)
def evaluator(request, monkeypatch):
    """Runs each test with both evaluators."""
    if request.param == "pycocotools":
        monkeypatch.setattr(coco_metrics, "faster_coco_eval", None)
    else:
        assert coco_metrics.faster_coco_eval is not None


def summarize(annotations, results, iou_type):
    """pycocotools' own twelve numbers, from results with only the field of the IoU type."""
    truth = COCO()
    truth.dataset = copy.deepcopy(annotations)
    truth.createIndex()
    field = {"bbox": "segmentation", "segm": "bbox"}[iou_type]
    results = [{key: value for key, value in result.items() if key != field} for result in results]
    evaluator = COCOeval(truth, truth.loadRes(results), iou_type)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return dict(zip(NAMES, evaluator.stats.tolist(), strict=True))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_summary_equals_pycocotools_at_100(iou_type, seed, capsys):
    annotations, results = random_set(seed)
    before = copy.deepcopy((annotations, results))
    expected = summarize(annotations, results, iou_type)
    capsys.readouterr()
    assert coco_metrics.coco_summary(annotations, results, iou_type, 100) == pytest.approx(
        expected, rel=1e-12
    )
    assert 0.05 < expected["AP"] < 0.95
    assert capsys.readouterr().out == ""
    assert (annotations, results) == before


def squares(num_objects):
    """One image with a row of 10x10 objects, all detected, with ascending scores."""
    boxes = [[12 * i, 0, 10, 10] for i in range(num_objects)]
    objects = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": (i + 1) / num_objects}
        for i, box in enumerate(boxes)
    ]
    images = [{"id": 1, "height": 10, "width": 12 * num_objects}]
    return {
        "images": images,
        "categories": [{"id": 1, "name": "square"}],
        "annotations": objects,
    }, results


@pytest.mark.parametrize(
    "limit, recall", [(300, 1.0), (100, 0.5), (40, 0.2), (10, 0.05), (1, 0.005)]
)
def test_summary_honours_the_number_of_detections(limit, recall):
    numbers = coco_metrics.coco_summary(*squares(200), "bbox", limit)
    # Precision is 1 up to the recall of so many detections, sampled at 101 recalls.
    reached = np.floor(recall * 100 + 1e-9) + 1
    assert [numbers[name] for name in ("AP", "AP50", "APs")] == pytest.approx([reached / 101] * 3)
    assert numbers["ARs"] == pytest.approx(recall)
    assert [numbers[name] for name in ("AR1", "AR10", "AR100")] == pytest.approx([0.005, 0.05, 0.5])
    assert numbers["APm"] == numbers["ARl"] == -1


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_summary_without_results_is_zero(iou_type):
    annotations, _ = random_set(0)
    numbers = coco_metrics.coco_summary(annotations, [], iou_type, 300)
    assert list(numbers) == NAMES
    assert set(numbers.values()) == {0.0}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_summary_without_objects_is_undefined(iou_type):
    annotations, results = random_set(0)
    for found in (results, []):
        numbers = coco_metrics.coco_summary(annotations | {"annotations": []}, found, iou_type)
        assert set(numbers.values()) == {-1.0}


def test_the_size_of_a_mask_is_its_area_even_beside_a_box():
    annotations, results = random_set(1)
    without_box = [
        {key: value for key, value in result.items() if key != "bbox"} for result in results
    ]
    assert coco_metrics.coco_summary(annotations, results, "segm") == coco_metrics.coco_summary(
        annotations, without_box, "segm"
    )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_an_object_may_have_the_id_0(iou_type):
    annotations, results = random_set(2)
    expected = coco_metrics.coco_summary(annotations, results, iou_type)
    for annotation in annotations["annotations"]:
        annotation["id"] -= 1
    assert coco_metrics.coco_summary(annotations, results, iou_type) == expected


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_an_image_may_have_a_negative_id(iou_type):
    annotations, results = random_set(2)
    expected = coco_metrics.coco_summary(annotations, results, iou_type)
    for image in annotations["images"]:
        image["id"] -= 1000
    for entry in [*annotations["annotations"], *results]:
        entry["image_id"] -= 1000
    assert coco_metrics.coco_summary(annotations, results, iou_type) == pytest.approx(
        expected, abs=1e-12
    )


def test_per_class_ap():
    annotations, results = squares(4)
    annotations["categories"] += [{"id": 2, "name": "circle"}, {"id": 5, "name": "star"}]
    annotations["annotations"].append(annotations["annotations"][0] | {"id": 5, "category_id": 2})
    assert coco_metrics.per_class_ap(annotations, results, "bbox") == {
        "square": 1.0,
        "circle": 0.0,
        "star": -1.0,
    }


def test_categories_of_one_name_each_have_their_ap():
    annotations, results = squares(4)
    annotations["categories"] += [{"id": 2, "name": "square"}, {"id": 5, "name": "star"}]
    annotations["annotations"].append(annotations["annotations"][0] | {"id": 5, "category_id": 2})
    expected = {"square (id 1)": 1.0, "square (id 2)": 0.0, "star": -1.0}
    assert coco_metrics.per_class_ap(annotations, results, "bbox") == expected


def test_coco_results_by_hand():
    patch = np.array([[0.6, 0.4], [0.9, 0.5]], np.float32)
    found = pasting.ImageDetections(
        boxes=np.array([[1.0, 2, 3.5, 6.25]], np.float32),
        labels=np.array([2]),
        scores=np.array([0.75], np.float32),
        patches=[(patch, (2, 1))],
    )
    (result,) = coco_metrics.coco_results(found, (8, 5), 42, CATEGORY_IDS)
    expected = np.zeros((8, 5), np.uint8)
    expected[2:4, 1] = 1
    counts = rle_codec.encode(np.asfortranarray(expected))["counts"].decode()
    assert result == {
        "image_id": 42,
        "category_id": 7,
        "bbox": [1.0, 2.0, 2.5, 4.25],
        "score": 0.75,
        "segmentation": {"size": [8, 5], "counts": counts},
    }


def coco_set(seed, num_images=4):
    """Objects of COCO's 80 categories, and detections by image as arrays with labels from 1."""
    annotations, results = random_set(seed, num_images=num_images)
    # A false positive: by its box it is of medium size, by its mask it is small.
    disc = {"image_id": 1, "category_id": CATEGORY_IDS[0], "bbox": [20.0, 20.0, 36.0, 36.0]}
    disc["segmentation"] = ellipse((20, 20, 56, 56), (160, 200))
    assert rle_codec.area(disc["segmentation"]) < 32**2 < 36**2
    results.append(disc | {"score": 0.999})
    rng, categories = np.random.default_rng(seed), Categories.coco()
    labels = (rng.choice(80, 3, replace=False) + 1).tolist()
    label_of = dict(zip(CATEGORY_IDS, labels, strict=True))
    for entry in annotations["annotations"]:
        entry["category_id"] = categories.category_id(label_of[entry["category_id"]])
    annotations["categories"] = categories.to_json()
    detections = {}
    for image_id in range(1, num_images + 1):
        found = [x for x in results if x["image_id"] == image_id]
        x, y, width, height = np.array([x["bbox"] for x in found]).T
        masks = [rle.decode(x["segmentation"], 160, 200).astype(np.float32) for x in found]
        detections[image_id] = pasting.ImageDetections(
            boxes=np.stack([x, y, x + width, y + height], axis=1).astype(np.float32),
            labels=np.array([label_of[x["category_id"]] for x in found]),
            scores=np.array([x["score"] for x in found], np.float32),
            patches=[(mask, (0, 0)) for mask in masks],
        )
    return annotations, detections


def results_of_others(detections):
    """The results that Detectron2 and MMDetection give pycocotools: classes become COCO's ids."""
    id_of_class = dict(enumerate(sorted(Categories.coco().ids)))
    results = []
    for image_id, found in detections.items():
        for i, (x0, y0, x1, y1) in enumerate(found.boxes.tolist()):
            mask = np.asfortranarray(found.patches[i][0] >= 0.5, np.uint8)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": id_of_class[found.labels[i] - 1],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(found.scores[i]),
                    "segmentation": rle_codec.encode(mask),
                }
            )
    return results


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ap_is_that_of_other_libraries(iou_type, capsys):
    """They let areas of masks be those of the masks, and count 100 detections of an image."""
    annotations, detections = coco_set(3)
    expected = summarize(annotations, results_of_others(detections), iou_type)
    assert min(expected[name] for name in ("AP", "APs", "APm", "APl")) > 0.05
    size, ids = (160, 200), Categories.coco().ids
    ours = [
        result
        for image_id, found in detections.items()
        for result in coco_metrics.coco_results(found, size, image_id, ids)
    ]
    numbers = coco_metrics.coco_summary(annotations, ours, iou_type, 100)
    assert numbers == pytest.approx(expected, rel=1e-12)
