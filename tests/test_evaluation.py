"""COCO numbers against pycocotools and by hand, and evaluations with a stand-in model."""

import copy
import json
from types import SimpleNamespace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_jax import evaluation, pasting
from maskrcnn_jax.config import Config, ModelConfig
from maskrcnn_jax.data import rle
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.structures import Batch, Crops, Detections, Instances

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
        monkeypatch.setattr(evaluation, "faster_coco_eval", None)
    else:
        assert evaluation.faster_coco_eval is not None


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
    assert evaluation.coco_summary(annotations, results, iou_type, 100) == pytest.approx(
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
    numbers = evaluation.coco_summary(*squares(200), "bbox", limit)
    # Precision is 1 up to the recall of so many detections, sampled at 101 recalls.
    reached = np.floor(recall * 100 + 1e-9) + 1
    assert [numbers[name] for name in ("AP", "AP50", "APs")] == pytest.approx([reached / 101] * 3)
    assert numbers["ARs"] == pytest.approx(recall)
    assert [numbers[name] for name in ("AR1", "AR10", "AR100")] == pytest.approx([0.005, 0.05, 0.5])
    assert numbers["APm"] == numbers["ARl"] == -1


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_summary_without_results_is_zero(iou_type):
    annotations, _ = random_set(0)
    numbers = evaluation.coco_summary(annotations, [], iou_type, 300)
    assert list(numbers) == NAMES
    assert set(numbers.values()) == {0.0}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_summary_without_objects_is_undefined(iou_type):
    annotations, results = random_set(0)
    for found in (results, []):
        numbers = evaluation.coco_summary(annotations | {"annotations": []}, found, iou_type)
        assert set(numbers.values()) == {-1.0}


def test_the_size_of_a_mask_is_its_area_even_beside_a_box():
    annotations, results = random_set(1)
    without_box = [
        {key: value for key, value in result.items() if key != "bbox"} for result in results
    ]
    assert evaluation.coco_summary(annotations, results, "segm") == evaluation.coco_summary(
        annotations, without_box, "segm"
    )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_an_object_may_have_the_id_0(iou_type):
    annotations, results = random_set(2)
    expected = evaluation.coco_summary(annotations, results, iou_type)
    for annotation in annotations["annotations"]:
        annotation["id"] -= 1
    assert evaluation.coco_summary(annotations, results, iou_type) == expected


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_an_image_may_have_a_negative_id(iou_type):
    annotations, results = random_set(2)
    expected = evaluation.coco_summary(annotations, results, iou_type)
    for image in annotations["images"]:
        image["id"] -= 1000
    for entry in [*annotations["annotations"], *results]:
        entry["image_id"] -= 1000
    assert evaluation.coco_summary(annotations, results, iou_type) == pytest.approx(
        expected, abs=1e-12
    )


def test_per_class_ap():
    annotations, results = squares(4)
    annotations["categories"] += [{"id": 2, "name": "circle"}, {"id": 5, "name": "star"}]
    annotations["annotations"].append(annotations["annotations"][0] | {"id": 5, "category_id": 2})
    assert evaluation.per_class_ap(annotations, results, "bbox") == {
        "square": 1.0,
        "circle": 0.0,
        "star": -1.0,
    }


def test_categories_of_one_name_each_have_their_ap():
    annotations, results = squares(4)
    annotations["categories"] += [{"id": 2, "name": "square"}, {"id": 5, "name": "star"}]
    annotations["annotations"].append(annotations["annotations"][0] | {"id": 5, "category_id": 2})
    expected = {"square (id 1)": 1.0, "square (id 2)": 0.0, "star": -1.0}
    assert evaluation.per_class_ap(annotations, results, "bbox") == expected


def test_coco_results_by_hand():
    patch = np.array([[0.6, 0.4], [0.9, 0.5]], np.float32)
    found = pasting.ImageDetections(
        boxes=np.array([[1.0, 2, 3.5, 6.25]], np.float32),
        labels=np.array([2]),
        scores=np.array([0.75], np.float32),
        patches=[(patch, (2, 1))],
    )
    (result,) = evaluation.coco_results(found, (8, 5), 42, CATEGORY_IDS)
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
        for result in evaluation.coco_results(found, size, image_id, ids)
    ]
    numbers = evaluation.coco_summary(annotations, ours, iou_type, 100)
    assert numbers == pytest.approx(expected, rel=1e-12)


class EvalBatch(NamedTuple):
    batch: Batch
    original_sizes: np.ndarray
    real: np.ndarray


class Oracle:
    """Stands in for the model: detects the squares in the red channel.

    The losses count images.
    """

    num_traces = 0

    def __init__(self, masks=True):
        self.masks = masks

    def clone(self, run):
        return self

    def apply(self, variables, *arrays, method=None):
        Oracle.num_traces += 1
        if method == "losses":
            batch, _ = arrays
            ones = jnp.ones(len(batch.images))
            return {
                "mask": (batch.image_id.sum() * 1.0, ones.sum()),
                "box": (ones.sum(), 0 * ones.sum()),
            }, {}
        images, sizes, canvas = arrays
        red = images[..., 0] > 0
        rows, columns = red.any(2), red.any(1)
        first = [jnp.argmax(axis, 1) for axis in (columns, rows)]
        boxes = jnp.stack(
            first + [f + a.sum(1) for f, a in zip(first, (columns, rows), strict=True)], 1
        )
        boxes = jnp.stack([boxes, 0 * boxes], 1).astype(jnp.float32)
        masks = jnp.ones((*boxes.shape[:2], 28, 28)) if self.masks else None
        valid = jnp.array([[True, False]] * len(images))
        return Detections(boxes, jnp.full(valid.shape, 2), variables["score"] * valid, masks, valid)


def eval_batches(num_images):
    """Images of 20x20 with a square each, at twice their size, in batches of two with padding."""
    images = np.zeros((num_images, 64, 64, 3), np.uint8)
    images[:, 8:24, 4:36, 0] = 1
    for start in range(0, num_images, 2):
        index = np.minimum(np.arange(start, start + 2), num_images - 1)
        g = np.zeros((2, 1, 4), np.float32)
        instances = Instances(
            g, np.ones((2, 1), int), Crops(np.zeros((2, 1, 4, 4), np.uint8)), np.ones((2, 1), bool)
        )
        sizes = np.full((2, 2), 40)
        batch = Batch(
            images[index], sizes, np.full((2, 2), 64), index + 1, instances, np.zeros(2, int)
        )
        yield EvalBatch(batch, np.full((2, 2), 20), np.arange(start, start + 2) < num_images)


def squares_truth(num_images):
    # The pixels of the box [2, 4, 18, 12]. A pasted mask of ones is wider than its box by half a
    # cell on each side.
    objects = [
        {
            "id": i,
            "image_id": i,
            "category_id": 7,
            "bbox": [2, 4, 16, 8],
            "area": 128,
            "iscrowd": 0,
            "segmentation": [[2, 4, 18, 4, 18, 12, 2, 12]],
        }
        for i in range(1, num_images + 1)
    ]
    return {
        "images": [{"id": i, "height": 20, "width": 20} for i in range(1, num_images + 1)],
        "categories": [{"id": i, "name": f"class {i}"} for i in CATEGORY_IDS],
        "annotations": objects,
    }


@pytest.fixture(scope="module")
def evaluated():
    Oracle.num_traces, counted = 0, []
    categories = Categories(CATEGORY_IDS, ("a", "b", "c"))
    result = evaluation.evaluate(
        Oracle(),
        {"score": jnp.float32(0.9)},
        eval_batches(5),
        squares_truth(5),
        categories,
        Config(test_batch_size=2),
        advance=counted.append,
    )
    return result, counted


def test_evaluate_finds_every_object_in_original_pixels(evaluated):
    result, _ = evaluated
    assert [d["image_id"] for d in result.detections] == [1, 2, 3, 4, 5]
    assert result.detections[0]["bbox"] == [2, 4, 16, 8]
    assert result.bbox["AP"] == 1.0
    assert result.segm["AP50"] == 1.0
    assert result.bbox_per_class == {"class 3": -1.0, "class 7": 1.0, "class 12": -1.0}


def test_evaluate_counts_padded_entries_for_nothing(evaluated):
    result, counted = evaluated
    assert counted == [2, 2, 1]
    assert result.losses == {"mask": (1 + 2 + 3 + 4 + 5) / 5, "box": 5.0, "loss": 8.0}


def test_evaluate_traces_each_function_once(evaluated):
    assert Oracle.num_traces == 2


def test_one_compilation_of_each_function_for_each_bucket(compilations):
    """More images, other original sizes and further evaluations compile nothing."""

    def run(model, width):
        batches = list(eval_batches(5))
        for i, batch in enumerate(batches[1:], start=1):
            images = np.pad(batch.batch.images, ((0, 0), (0, 0), (0, width), (0, 0)))
            sizes = np.array([[40, 40 + i]] * 2)
            batches[i] = batch._replace(batch=batch.batch._replace(images=images, sizes=sizes))
        before = len(compilations)
        categories, variables = (
            Categories(CATEGORY_IDS, ("a", "b", "c")),
            {"score": jnp.asarray(np.float32(0.9))},
        )
        evaluation.evaluate(
            model, variables, batches, squares_truth(5), categories, Config(test_batch_size=2)
        )
        return len(compilations) - before

    run(Oracle(), 0)  # Compiles the code around the model.
    model = Oracle()
    assert [run(model, width) for width in (0, 0, 32, 32)] == [2, 0, 2, 0]


@pytest.fixture(scope="module")
def evaluated_boxes():
    """The evaluation of a model without a mask head on annotations without masks."""
    annotations = squares_truth(5)
    for entry in annotations["annotations"]:
        del entry["segmentation"]
    config = Config(model=ModelConfig(mask_head=None), test_batch_size=2)
    return evaluation.evaluate(
        Oracle(masks=False),
        {"score": jnp.float32(0.9)},
        eval_batches(5),
        annotations,
        Categories(CATEGORY_IDS, ("a", "b", "c")),
        config,
    )


def test_boxes_alone_are_evaluated_by_their_boxes(evaluated, evaluated_boxes):
    with_masks, result = evaluated[0], evaluated_boxes
    assert result.bbox == with_masks.bbox
    assert result.segm is result.segm_per_class is None
    assert list(result.numbers) == ["bbox"] and list(with_masks.numbers) == ["bbox", "segm"]
    assert not any("segmentation" in found for found in result.detections)
    assert result.ap == result.bbox["AP"] and with_masks.ap == with_masks.segm["AP"] != result.ap


def test_boxes_alone_have_a_headline_and_files(evaluated_boxes, tmp_path):
    assert evaluation.headline(evaluated_boxes) == "box AP 1.000, AP50 1.000, loss 8.000"
    evaluation.write(tmp_path, evaluated_boxes)
    assert list(json.loads((tmp_path / "evaluation.json").read_text())) == ["bbox", "losses"]


class BlackImages:
    """A data set of two images, with the members that `Dataset` asks for."""

    categories = sizes = labels = None
    image_ids = (1, 2)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return SimpleNamespace(image=np.zeros((20, 20, 3), np.uint8), image_id=index + 1)


def test_any_function_that_detects_is_evaluated_image_by_image():
    truth, counted = squares_truth(2), []

    def detect(image):
        boxes = np.array([[2, 4, 18, 12]], np.float32)
        return pasting.ImageDetections(boxes, np.array([2]), np.array([0.5], np.float32), None)

    categories = Categories(CATEGORY_IDS, ("a", "b", "c"))
    result = evaluation.evaluate_images(
        detect, BlackImages(), truth, categories, 10, masks=False, advance=counted.append
    )
    assert result.bbox["AP"] == 1.0 and result.segm is None and result.losses == {}
    assert counted == [1, 1]


def test_headline(evaluated):
    result, _ = evaluated
    segm = f"mask AP {result.segm['AP']:.3f}, AP50 1.000"
    assert evaluation.headline(result) == f"box AP 1.000, AP50 1.000, {segm}, loss 8.000"


def test_write(evaluated, tmp_path):
    result, _ = evaluated
    evaluation.write(tmp_path / "run", result)
    numbers = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert list(numbers["bbox"]) == list(numbers["segm"]) == NAMES
    assert numbers["losses"] == result.losses
    assert json.loads((tmp_path / "run" / "detections.json").read_text()) == result.detections
