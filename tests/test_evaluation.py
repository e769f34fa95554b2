"""Evaluations with a stand-in model."""

import json
from types import SimpleNamespace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import evaluation, pasting
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.structures import Batch, Crops, Detections, Instances

NAMES = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()
CATEGORY_IDS = (3, 7, 12)


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
