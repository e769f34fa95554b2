"""AP of LVIS against the package `lvis` of the data set, on a random set of its shape."""

import logging

import numpy as np
import pytest
from pycocotools import mask as rle_codec

from maskrcnn_jax import coco_metrics
from maskrcnn_jax.data import lvis

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SIZE = (260, 320)


@pytest.fixture(scope="module")
def package():
    """The package, which NumPy's old names keep alive."""
    pytest.importorskip("matplotlib")  # It imports a viewer.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        yield pytest.importorskip("lvis")


def run_lengths(box):
    """The run lengths of an ellipse inside a box."""
    x, y, width, height = box
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = ((columns - x - width / 2) / width) ** 2 + ((rows - y - height / 2) / height) ** 2
    found = rle_codec.encode(np.asfortranarray(inside < 0.25))
    return {"size": list(SIZE), "counts": found["counts"].decode()}


def random_box(random):
    extent = random.choice([20, 70, 240], p=[0.4, 0.4, 0.2]) * random.uniform(0.7, 1, 2)
    corner = random.uniform(0, np.array(SIZE[::-1]) - extent)
    return [*corner.tolist(), *extent.tolist()]


def random_set(seed, num_images=30, num_categories=40):
    """Each image has labels of a few categories, and detections of many."""
    random = np.random.default_rng(seed)
    categories = [
        {"id": i, "name": f"class {i}", "synonyms": [], "frequency": "rcf"[i % 3]}
        for i in range(1, num_categories + 1)
    ]
    images, objects, results = [], [], []
    for image_id in range(1, num_images + 1):
        labelled = random.choice(num_categories, 12, replace=False) + 1
        image = {"id": image_id, "height": SIZE[0], "width": SIZE[1]}
        image["neg_category_ids"] = labelled[6:].tolist()
        image["not_exhaustive_category_ids"] = labelled[:2].tolist()
        images.append(image)
        boxes = []
        for category in random.choice(labelled[:6], 9).tolist():
            box = random_box(random)
            entry = {"id": len(objects) + 1, "image_id": image_id, "category_id": category}
            entry |= {"bbox": box, "segmentation": run_lengths(box)}
            objects.append(entry | {"area": int(rle_codec.area(entry["segmentation"]))})
            boxes.append((box, category))
        for i in range(25):
            near, category = boxes[i % len(boxes)]
            moved = np.array(near) + random.normal(0, 3, 4)
            box = [*moved[:2].tolist(), *np.maximum(moved[2:], 2).tolist()]
            if random.random() < 0.5:
                box, category = random_box(random), int(random.integers(1, num_categories + 1))
            result = {"image_id": image_id, "category_id": category, "bbox": box}
            result |= {"segmentation": run_lengths(box), "score": float(random.random())}
            results.append(result)
    return {"images": images, "annotations": objects, "categories": categories}, results


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("limit", [300, 12])
def test_numbers_equal_those_of_the_package(package, iou_type, limit, monkeypatch):
    truth, results = random_set(0)
    ground = package.LVIS.__new__(package.LVIS)
    ground.dataset = truth
    ground.logger = logging.getLogger("lvis")
    ground._create_index()
    dropped = "bbox" if iou_type == "segm" else "segmentation"
    own = [{k: v for k, v in result.items() if k != dropped} for result in results]
    detected = package.LVISResults(ground, own, max_dets=limit)
    evaluation = package.LVISEval(ground, detected, iou_type)
    evaluation.params.max_dets = limit
    evaluation.run()
    expected = evaluation.get_results()
    numbers = coco_metrics.coco_summary(truth, results, iou_type, limit)
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AP{x}" for x in lvis.FREQUENCIES)]
    assert min(expected[name] for name in names) > 0.02
    for name in names:
        assert numbers[name] == pytest.approx(expected[name], abs=1e-6), name
    monkeypatch.setattr(coco_metrics, "faster_coco_eval", None)
    assert coco_metrics.coco_summary(truth, results, iou_type, limit) == pytest.approx(numbers)
