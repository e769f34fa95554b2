"""Weights carry their categories: raw ids for 91 columns, and contiguous labels for a run."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import presets
from maskrcnn_jax.cli import evaluate
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.runs import run_directory
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.weights import detectron2, files, mmdetection, torchvision
from tests.weights import families, states

NAMES = {1: "person", 3: "car", 90: "toothbrush"}  # COCO's ids have gaps.
CONFIG = """
from maskrcnn_jax.config import Config

def get_config():
    config = Config()
    config.data.val_images, config.data.val_annotations = {folder!r}, {file!r}
    config.data.test_short_side = config.data.test_max_long_side = 64
    config.data.test_buckets, config.data.max_instances = ((64, 64),), 4
    return config
"""


class FindsFirstAndLast:
    """Stands in for `MaskRCNN`: detects an object of the first and one of the last class.

    The objects are in the quarters of the image where `data` has them. The loss is the sum of the
    labels of the batch.
    """

    def __init__(self, config, detection, run):
        self.config, self.detection, self.run = config, detection, run

    def clone(self, run):
        return self

    def apply(self, variables, *arrays, method=None):
        if method == "losses":
            instances = arrays[0].instances
            return {
                "labels": (jnp.where(instances.valid, instances.classes, 0).sum(), jnp.float32(1))
            }, {}
        boxes = jnp.array([[[0, 0, 32, 32], [32, 32, 64, 64]]], jnp.float32)
        classes = jnp.array([[1, self.config.num_classes - 1]])
        return Detections(
            boxes, classes, jnp.full((1, 2), 0.9), jnp.ones((1, 2, 28, 28)), jnp.ones((1, 2), bool)
        )


def small(num_classes):
    return states.small(ModelConfig(num_classes=num_classes))


@pytest.fixture
def data(tmp_path):
    """The config file of one image with objects of two categories; a third has no object."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "1.png")
    boxes = {1: [0, 0, 32, 32], 90: [32, 32, 32, 32]}
    annotations = {
        "images": [{"id": 1, "file_name": "1.png", "height": 64, "width": 64}],
        "categories": [{"id": i, "name": name} for i, name in NAMES.items()],
        "annotations": [
            {
                "id": i,
                "image_id": 1,
                "category_id": i,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for i, (x, y, w, h) in boxes.items()
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(annotations))
    (tmp_path / "config.py").write_text(
        CONFIG.format(folder=str(tmp_path), file=str(tmp_path / "val.json"))
    )
    return tmp_path


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(evaluate, "MaskRCNN", FindsFirstAndLast)


def evaluated(data, weights):
    output = data / "out"
    assert (
        main(
            [
                "evaluate",
                "--weights",
                weights,
                "--config",
                str(data / "config.py"),
                "--output",
                str(output),
            ]
        )
        == 0
    )
    numbers = json.loads((output / "evaluation.json").read_text())
    detections = json.loads((output / "detections.json").read_text())
    return [d["category_id"] for d in detections], numbers


def write_run(monkeypatch, folder, categories):
    config = Config(model=small(len(categories) + 1))
    variables = torchvision.from_state_dict(states.state_of(config.model), config.model)
    run = run_directory.Run(config, categories, variables, 1)
    monkeypatch.setattr(run_directory, "load_run", lambda directory: run)
    (folder / "run").mkdir()
    return str(folder / "run")


def test_a_file_of_91_columns_has_raw_ids(data):
    files.write(data / "w.pth", states.state_of(small(91)))
    ids, numbers = evaluated(data, str(data / "w.pth"))
    assert ids == [1, 90] and numbers["bbox"]["AP"] == pytest.approx(1) == numbers["segm"]["AP50"]
    assert numbers["losses"]["labels"] == 1 + 90


def test_a_run_has_contiguous_labels(data, monkeypatch):
    run = write_run(monkeypatch, data, Categories(tuple(NAMES), tuple(NAMES.values())))
    ids, numbers = evaluated(data, run)
    assert ids == [1, 90] and numbers["bbox"]["AP"] == pytest.approx(1) == numbers["segm"]["AP50"]
    assert numbers["losses"]["labels"] == 1 + 3


def test_a_run_that_orders_or_has_more_of_them(data, monkeypatch):
    run = write_run(
        monkeypatch, data, Categories((90, 7, 3, 1), ("toothbrush", "train", "car", "person"))
    )
    ids, numbers = evaluated(data, run)
    assert ids == [90, 1] and numbers["losses"]["labels"] == 4 + 1


@pytest.mark.parametrize(
    "categories, message",
    [
        (Categories((1, 3), ("person", "car")), "does not know category 90 'toothbrush'"),
        (
            Categories((1, 3, 90), ("person", "truck", "toothbrush")),
            "does not know category 3 'car' of the data set, which is 'truck'",
        ),
    ],
)
def test_a_category_that_the_model_does_not_know_is_named(
    data, monkeypatch, capsys, categories, message
):
    run = write_run(monkeypatch, data, categories)
    assert main(["evaluate", "--weights", run, "--config", str(data / "config.py")]) == 2
    assert message in capsys.readouterr().err


def test_where_nobody_knows_the_names_the_ids_do(data):
    """With another number of classes than COCO's, labels count as category ids."""
    files.write(data / "w.pth", states.state_of(small(101)))
    ids, numbers = evaluated(data, str(data / "w.pth"))
    assert ids == [1, 100] and numbers["losses"]["labels"] == 1 + 90


@pytest.mark.parametrize("weights", ["COCO_V1", "V2_COCO_V1", "w.pth"])
def test_weights_do_not_say_which_data(data, capsys, monkeypatch, weights):
    monkeypatch.chdir(data)
    (data / "w.pth").touch()
    assert main(["evaluate", "--weights", weights]) == 2
    error = capsys.readouterr().err
    assert weights in error and "--config" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "family, preset",
    [(detectron2, presets.detectron2_r50_fpn), (mmdetection, presets.mmdet_r50_fpn)],
)
def test_labels_of_other_libraries_are_cocos_categories_too(data, family, preset):
    """Their 80 labels have no gaps: the last one is COCO's category 90."""
    files.write(data / "w.pth", families.state_of(family, families.reduced(preset())))
    ids, numbers = evaluated(data, str(data / "w.pth"))
    assert ids == [1, 90] and numbers["losses"]["labels"] == 1 + 80


def test_rules_of_the_weights_hold_with_the_data_of_another_config():
    chosen = Config()
    chosen.data.val_images, chosen.detection.score_threshold = "elsewhere", 0.3
    combined = evaluate._combine(presets.detectron2_r50_fpn(), chosen)
    assert combined.data.val_images == "elsewhere" and combined.detection.score_threshold == 0.3
    assert (combined.data.size_rule, combined.data.resize) == ("detectron2", "pillow")
    assert combined.detection.clip_to_original and combined.detection.paste == "centres"
    assert chosen.data.resize == "bilinear"
