"""`maskrcnn-jax evaluate` with a stand-in for the model, or for the pass over the images."""

import json

import pytest

from maskrcnn_jax import coco_metrics, evaluation
from maskrcnn_jax.cli import config_file, evaluate
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.weights import loading
from maskrcnn_jax.weights.report import Report
from maskrcnn_jax.xla import compiler
from tests.cli.conftest import tiny_config


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """A run whose model finds every second object."""
    config = Config()
    config.data.source, config.data.shapes_image_size, config.data.shapes_num_val = "shapes", 64, 3
    config.data.test_short_side = config.data.test_max_long_side = 64
    config.data.test_buckets, config.model.num_classes = (
        ((64, 64),),
        len(ShapesDataset.categories) + 1,
    )
    report = Report("run", None, "a stand-in", {}, 0)
    loaded = loading.LoadedModel(config, {}, ShapesDataset.categories, report)

    def find(model, variables, batches, annotations, *_, **__):
        found = [object | {"score": 0.9} for object in annotations["annotations"][::2]]
        twelve = [coco_metrics.coco_summary(annotations, found, kind) for kind in ("bbox", "segm")]
        return evaluation.Evaluation(*twelve, {"loss": 0.0}, {}, {}, found)

    monkeypatch.setattr(loading, "load", lambda weights: loaded)
    monkeypatch.setattr(evaluate.evaluation, "evaluate", find)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_the_report_is_written_where_asked(evaluated, tmp_path, capsys):
    path = tmp_path / "pages" / "report.html"
    assert main(["evaluate", "--weights", str(evaluated), "--report", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert f"<h1>Evaluation of {evaluated}</h1>" in text and text.count("data:image/jpeg") == 6
    assert not (evaluated / "report.html").exists()


def test_no_report_unless_asked(evaluated):
    assert main(["evaluate", "--weights", str(evaluated)]) == 0
    assert sorted(path.name for path in evaluated.iterdir()) == [
        "detections.json",
        "evaluation.json",
        "outputs.json",
    ]


@pytest.mark.parametrize("name", ["", "report.pdf", "report"])
def test_a_wrong_name_is_refused_before_the_work(evaluated, tmp_path, capsys, name):
    assert main(["evaluate", "--weights", str(evaluated), "--report", str(tmp_path / name)]) == 2
    assert ".html" in capsys.readouterr().err
    assert not list(evaluated.iterdir())


def test_evaluate_writes_numbers_and_prints_them(run_directory, tmp_path, capsys):
    assert main(["evaluate", "--weights", str(run_directory), "--per-class"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("AP50", "ARs", *ShapesDataset.categories.names))
    numbers = json.loads((run_directory / "evaluation.json").read_text())
    assert list(numbers) == ["bbox", "segm", "losses"]
    assert len(numbers["bbox"]) == len(numbers["segm"]) == 12
    assert numbers["losses"] == {"first": 1.5, "second": 1.5, "loss": 3.0}
    detections = json.loads((run_directory / "detections.json").read_text())
    assert [d["image_id"] for d in detections] == [1, 2, 3]
    assert str(run_directory) in printed and "model: a stand-in" in printed


@pytest.mark.parametrize("arguments", [[], ["--augment"]], ids=["one view", "several views"])
def test_evaluate_a_model_without_masks(run_directory, tmp_path, capsys, arguments):
    """The model is a Faster R-CNN."""
    loading.load(run_directory).config.model.mask_head = None
    report = tmp_path / "report.html"
    command = ["evaluate", "--weights", str(run_directory), "--per-class", "--report", str(report)]
    assert main([*command, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "box" in printed and "mask" not in printed.replace("masks", "")
    numbers = json.loads((run_directory / "evaluation.json").read_text())
    assert list(numbers) == ["bbox", "losses"]
    detections = json.loads((run_directory / "detections.json").read_text())
    assert detections and not any("segmentation" in found for found in detections)
    assert '"kinds":["bbox"]' in report.read_text()


def test_evaluate_returns_memory_after_compiling(run_directory, monkeypatch):
    called = []
    monkeypatch.setattr(compiler, "return_memory_after_compiling", lambda: called.append(1))
    assert main(["evaluate", "--weights", str(run_directory)]) == 0
    assert called == [1]


def test_evaluate_with_several_views(run_directory, capsys):
    assert main(["evaluate", "--weights", str(run_directory), "--augment"]) == 0
    assert "losses" not in capsys.readouterr().out
    assert json.loads((run_directory / "evaluation.json").read_text())["losses"] == {}
    detections = json.loads((run_directory / "detections.json").read_text())
    assert [d["image_id"] for d in detections] == [1, 1, 2, 2, 3, 3]


def test_several_views_of_images_without_a_bucket_are_evaluated(run_directory, capsys):
    loading.load(run_directory).config.data.test_buckets = ((32, 32),)
    command = ["evaluate", "--weights", str(run_directory)]
    assert main(command) == 2
    assert "[(32, 32)]" in capsys.readouterr().err
    assert main([*command, "--augment"]) == 0
    assert len(json.loads((run_directory / "detections.json").read_text())) == 6


@pytest.mark.parametrize("arguments", [[], ["--augment"]])
def test_a_set_without_images_is_refused(run_directory, tmp_path, capsys, arguments):
    data = loading.load(run_directory).config.data
    data.source, data.val_images, data.val_annotations = (
        "coco",
        str(tmp_path),
        str(tmp_path / "instances.json"),
    )
    categories = [
        {"id": i, "name": name} for i, name in enumerate(ShapesDataset.categories.names, start=1)
    ]
    content = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert main(["evaluate", "--weights", str(run_directory), *arguments]) == 2
    assert "has 0 usable images" in capsys.readouterr().err


CONFIG = """
from maskrcnn_jax.config import Config, DataConfig, ExecutionConfig

def get_config():
    data = DataConfig(source="shapes", shapes_image_size=64, shapes_num_val=1, max_instances=8)
    data.test_short_side, data.test_max_long_side, data.test_buckets = 64, 64, ((64, 64),)
    return Config(data=data, execution=ExecutionConfig(deterministic=True))
"""


def test_evaluate_takes_all_but_the_network_from_another_config(run_directory, tmp_path):
    (tmp_path / "other.py").write_text(CONFIG)
    output = tmp_path / "out"
    command = ["evaluate", "--weights", str(run_directory), "--output", str(output)]
    assert main([*command, "--config", str(tmp_path / "other.py")]) == 0
    assert [d["image_id"] for d in json.loads((output / "detections.json").read_text())] == [1]
    assert not list(run_directory.iterdir())
    combined = evaluate._combine(tiny_config(), config_file.read(tmp_path / "other.py"))
    assert combined.model.backbone.depth == 18 and combined.detection.num_detections == 100
    assert combined.execution.deterministic


def test_a_missing_config_is_one_message(run_directory, tmp_path, capsys):
    path = str(tmp_path / "none.py")
    assert main(["evaluate", "--weights", str(run_directory), "--config", path]) == 2
    assert path in capsys.readouterr().err
