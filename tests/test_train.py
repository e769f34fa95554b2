"""`train.py` as a user runs it, with a model that compiles in seconds."""

import json
import re
import shutil
from collections import Counter, defaultdict

import jax
import numpy as np
import pytest

from maskrcnn_jax import training
from maskrcnn_jax.cli import start as starting
from maskrcnn_jax.cli import training_loop
from maskrcnn_jax.config import Config
from maskrcnn_jax.data import coco_instances
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
)
from maskrcnn_jax.runs import events, run_directory
from maskrcnn_jax.weights import (
    download,
    files,
    model_metadata,
    reading,
    torchvision,
    torchvision_resnet,
)
from maskrcnn_jax.xla import compiler
from tests import train_process
from tests.data.test_coco_instances import write_annotations, write_images


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(cache):
    """Runs train.py in a new process; all processes share a compilation cache."""
    return lambda workdir, **overrides: train_process.finish(
        train_process.start(workdir, cache, **overrides)
    )


def test_an_interrupted_run_ends_as_if_it_had_not_been(run, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_LOG_COMPILES", "true")
    whole = run(tmp_path / "whole")  # 3 steps and 2 evaluations.
    assert whole.returncode == 0, whole.stderr
    compiled = Counter(re.findall(r"Compiling (?:jit\()?(\w+)", whole.stderr))
    assert [compiled[name] for name in ("train_step", "apply", "losses_of")] == [1, 1, 1]
    assert any((cache / "compiled").glob("jit_train_step-*"))
    monkeypatch.delenv("JAX_LOG_COMPILES")

    # As if it had been killed between the third step and its save.
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "3")
    resumed = run(tmp_path / "parts", command=("-m", "maskrcnn_jax", "train"))
    assert resumed.returncode == 0, resumed.stderr

    a, b = run_directory.load_run(tmp_path / "whole"), run_directory.load_run(tmp_path / "parts")
    assert a.step == b.step == 3
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)

    log = [
        json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3]
    numbers = json.loads((tmp_path / "parts" / "evaluation.json").read_text())
    names = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()
    assert list(numbers["bbox"]) == list(numbers["segm"]) == names
    assert (tmp_path / "parts" / "predictions.png").stat().st_size > 1000
    assert (tmp_path / "parts" / "detections.json").exists()
    first, second = run_directory.commands(tmp_path / "parts")
    assert "--config=configs/shapes.py" in first and "--config=configs/shapes.py" in second
    assert "<h1>Training run parts</h1>" in (tmp_path / "parts" / "report.html").read_text()
    shown = defaultdict(list)
    for path in sorted((tmp_path / "parts").glob("events.out.tfevents.*")):
        for event, _ in events.read(path):
            for value in event.summary.value:
                shown[value.tag].append(event.step)
    assert (
        shown["losses/loss"]
        == shown["training/learning_rate"]
        == shown["diagnostics/mask_accuracy"]
        == [1, 2, 3]
    )
    assert shown["segm/AP"] == shown["validation/loss"] == shown["predictions/image 1"] == [2, 3]


# Functions that find these mistakes have fast tests of their own.
FOUND_LATER = [
    pytest.param({"data__source": "voc"}, "'voc'", marks=pytest.mark.slow),
    pytest.param({"data__source": "coco"}, "instances_train2017.json", marks=pytest.mark.slow),
    pytest.param({"backbone_weights": "absent.npz"}, "absent.npz", marks=pytest.mark.slow),
    pytest.param({"execution__num_devices": 2}, "but there are 1", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"model__num_classes": 7}, "num_classes must be 6"),
        ({"weights": "absent.pth"}, "absent.pth"),
        ({"model__dpeth": 18}, "dpeth"),
        ({"config": "configs/absent.py"}, "absent.py"),
        *FOUND_LATER,
    ],
)
def test_a_mistake_ends_in_one_message_and_exit_code_2(run, tmp_path, overrides, message):
    result = run(tmp_path, **overrides)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_run_goes_on_with_other_ways_to_compute_and_to_detect(run, tmp_path):
    assert run(tmp_path, num_steps=1).returncode == 0
    other = {
        "execution__rematerialise": True,
        "execution__num_microbatches": 2,
        "execution__align_form": "einsum",
        "execution__deterministic": True,
        "detection__num_detections": 7,
    }
    resumed = run(tmp_path, num_steps=2, **other)
    assert resumed.returncode == 0, resumed.stderr
    steps = [entry["step"] for entry in train_process.log_of(tmp_path) if "loss" in entry]
    assert steps == [1, 2]
    detections = json.loads((tmp_path / "detections.json").read_text())
    counts = Counter(found["image_id"] for found in detections)
    assert max(counts.values()) == 7

    refused = run(tmp_path, num_steps=3, model__roi__num_samples=24)
    assert refused.returncode == 2
    assert "changed: model.roi.num_samples: 16 -> 24" in refused.stderr


@pytest.mark.slow
def test_a_model_without_a_mask_head_is_trained_and_reported(run, tmp_path):
    """The model is a Faster R-CNN."""
    without = {"num_steps": 2, "model__mask_head": None}
    result = run(tmp_path, **without)
    assert result.returncode == 0, result.stderr
    assert "box AP" in result.stdout and "mask AP" not in result.stdout
    log = train_process.log_of(tmp_path)
    (evaluated,) = (entry for entry in log if "bbox" in entry)
    assert "segm" not in evaluated
    names = {name for entry in log for name in entry if name.startswith(("loss", "mask"))}
    assert names == {
        "loss",
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
    }
    assert list(json.loads((tmp_path / "evaluation.json").read_text())) == ["bbox", "losses"]
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert detections and not any("segmentation" in found for found in detections)
    assert (tmp_path / "predictions.png").stat().st_size > 1000
    assert '"kinds":["bbox"]' in (tmp_path / "report.html").read_text()
    assert "mask_head" not in run_directory.load_run(tmp_path).variables["params"]


@pytest.mark.slow
def test_prepared_records_train_as_the_files_they_were_made_of(run, tmp_path):
    write_annotations(tmp_path / "instances.json", write_images(tmp_path / "images"))
    coco = {f"data__{split}_images": tmp_path / "images" for split in ("train", "val")}
    coco |= {
        f"data__{split}_annotations": tmp_path / "instances.json" for split in ("train", "val")
    }
    for split in ("train", "val"):
        dataset = CocoDataset(tmp_path / "images", tmp_path / "instances.json", keep_empty=True)
        coco_instances.prepare(dataset, split, tmp_path / "records", lambda num_images: None)
    common = {"model__num_classes": 4, "data__max_instances": 4}
    result = run(tmp_path / "a", data__source="coco", **coco, **common)
    assert result.returncode == 0, result.stderr
    result = run(tmp_path / "b", data__source="tfds", data__tfds_dir=tmp_path / "records", **common)
    assert result.returncode == 0, result.stderr
    a, b = (run_directory.load_run(tmp_path / name) for name in "ab")
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    assert train_process.log_of(tmp_path / "a") == train_process.log_of(tmp_path / "b")


class Reached(Exception):
    """Raised in place of the first step."""


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Runs `train` up to the optimizer; returns the parameters and the written config."""

    def start(config):
        found = {}

        def make_optimizer(config, params):
            found.update(params=params)
            raise Reached

        monkeypatch.setattr(training, "make_optimizer", make_optimizer)
        with pytest.raises(Reached):
            training_loop.train(config, tmp_path / "run")
        return found["params"], json.loads((tmp_path / "run" / "config.json").read_text())

    return start


def experiment(num_classes=6, **backbone):
    model = ModelConfig(
        num_classes=num_classes,
        backbone=ResNetConfig(depth=18, stem_channels=4, **backbone),
        fpn=FPNConfig(channels=8),
        box_head=BoxHeadConfig(features=16),
        mask_head=MaskHeadConfig(channels=12),
    )
    config = Config(model=model)
    config.data.source, config.data.shapes_image_size, config.data.shapes_num_val = "shapes", 64, 1
    return config


def state_of(config, table=torchvision.entries):
    random = np.random.default_rng(0)
    return {
        entry.name: random.normal(size=entry.shape).astype(np.float32) for entry in table(config)
    }


def kernel(params):
    """The kernel of the first convolution in torchvision's order of axes."""
    return params["backbone"]["conv1"]["kernel"].transpose(3, 2, 0, 1)


def test_a_validation_image_too_large_for_the_buckets_stops_a_run_before_it_begins(tmp_path):
    config = experiment()
    config.data.test_short_side, config.data.test_buckets = 96, ((96, 64), (64, 96))
    with pytest.raises(
        ValueError, match=r"data\.test_buckets: image id 1 of .* fits none of \[\(96, 64\), "
    ):
        starting.prepare(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("norm_eps, used", [(1e-5, 0.0), (1e-3, 1e-3)])
def test_weights_decide_the_eps_unless_the_config_does(
    start, tmp_path, monkeypatch, norm_eps, used, capsys
):
    config = experiment(norm_eps=norm_eps)
    state = state_of(config.model)
    files.write(tmp_path / "w.pth", state)
    digest = files.sha256(tmp_path / "w.pth")
    monkeypatch.setitem(download.DETECTORS, "maskrcnn_resnet50_fpn", f"w-{digest[:8]}.pth")
    config.weights = str(tmp_path / "w.pth")
    params, written = start(config)
    np.testing.assert_array_equal(kernel(params), state["backbone.body.conv1.weight"])
    scores = state["roi_heads.box_predictor.cls_score.weight"]
    np.testing.assert_array_equal(params["box_head"]["cls_score"]["kernel"].T, scores)
    assert written["model"]["backbone"]["norm_eps"] == used
    assert written["weights"] == config.weights
    assert f"eps of the norms: {used:g}" in capsys.readouterr().out
    start(config)  # The run can be started again: its model is the same.


def test_the_weights_that_torchvision_released_are_downloaded(start, tmp_path, monkeypatch):
    config, name, asked = experiment(), "maskrcnn_resnet50_fpn", []
    files.write(tmp_path / "w.pth", state_of(config.model))
    # The released name then stands for this small model.
    monkeypatch.setattr(reading, "released_for", lambda config: {"COCO_V1": name})
    monkeypatch.setattr(download, "fetch", lambda file: asked.append(file) or tmp_path / "w.pth")
    config.weights = "COCO_V1"
    params, written = start(config)
    np.testing.assert_array_equal(
        kernel(params), state_of(config.model)["backbone.body.conv1.weight"]
    )
    assert set(asked) == {download.DETECTORS[name]} and written["weights"] == "COCO_V1"


def test_another_number_of_classes_is_reported(start, tmp_path, capsys):
    config = experiment()
    state = state_of(experiment(num_classes=91).model)
    files.write(tmp_path / "w.pth", state)
    config.weights = str(tmp_path / "w.pth")
    params, _ = start(config)
    np.testing.assert_array_equal(kernel(params), state["backbone.body.conv1.weight"])
    assert params["box_head"]["cls_score"]["kernel"].shape == (16, 6)
    assert (
        "weights are for 91 classes: roi_heads.box_predictor.cls_score.weight"
        in capsys.readouterr().out
    )


def test_labels_keep_the_meaning_they_have_for_the_weights(start, tmp_path):
    config = experiment(num_classes=7)
    categories = Categories.from_json(
        [*ShapesDataset.categories.to_json(), {"id": 12, "name": "heart"}]
    )
    metadata = model_metadata.encode(config, categories)
    files.write(tmp_path / "w.pth", state_of(config.model), metadata)
    config.weights = str(tmp_path / "w.pth")
    start(config)
    assert json.loads((tmp_path / "run" / "categories.json").read_text()) == categories.to_json()


@pytest.mark.parametrize("weights", ["resnet.pth", "IMAGENET1K_V1"])
def test_a_backbone_of_torchvisions(start, tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "fetch", lambda name: tmp_path / "resnet.pth")
    config = experiment()
    config.backbone_weights = weights
    state = state_of(config.model, torchvision_resnet.entries)
    files.write("resnet.pth", state | {"fc.bias": np.zeros(1000, np.float32)})
    initial = torchvision.from_state_dict(state_of(config.model), config.model)
    monkeypatch.setattr(training, "init_variables", lambda model, seed: initial)
    params, written = start(config)
    np.testing.assert_array_equal(kernel(params), state["conv1.weight"])
    np.testing.assert_array_equal(
        params["fpn"]["lateral2"]["bias"], initial["params"]["fpn"]["lateral2"]["bias"]
    )
    assert written["backbone_weights"] == weights


@pytest.mark.parametrize("num_devices, trims", [(1, 1), (2, 0)])
def test_memory_is_returned_after_compiling_on_one_cpu(start, monkeypatch, num_devices, trims):
    called = []
    monkeypatch.setattr(compiler, "return_memory_after_compiling", lambda: called.append(1))
    monkeypatch.setattr(training, "init_variables", lambda model, seed: {"params": {}})
    config = experiment()
    config.execution.num_devices = num_devices
    start(config)
    assert len(called) == trims
