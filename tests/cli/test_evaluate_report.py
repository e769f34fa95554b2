"""`maskrcnn-jax evaluate --report`, with a stand-in for the pass over the validation set."""

import pytest

from maskrcnn_jax import coco_metrics, evaluation
from maskrcnn_jax.cli import evaluate
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.weights import loading
from maskrcnn_jax.weights.report import Report


@pytest.fixture
def run_directory(tmp_path, monkeypatch):
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


def test_the_report_is_written_where_asked(run_directory, tmp_path, capsys):
    path = tmp_path / "pages" / "report.html"
    assert main(["evaluate", "--weights", str(run_directory), "--report", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert f"<h1>Evaluation of {run_directory}</h1>" in text and text.count("data:image/jpeg") == 6
    assert not (run_directory / "report.html").exists()


def test_no_report_unless_asked(run_directory):
    assert main(["evaluate", "--weights", str(run_directory)]) == 0
    assert sorted(path.name for path in run_directory.iterdir()) == [
        "detections.json",
        "evaluation.json",
        "outputs.json",
    ]


@pytest.mark.parametrize("name", ["", "report.pdf", "report"])
def test_a_wrong_name_is_refused_before_the_work(run_directory, tmp_path, capsys, name):
    assert (
        main(["evaluate", "--weights", str(run_directory), "--report", str(tmp_path / name)]) == 2
    )
    assert ".html" in capsys.readouterr().err
    assert not list(run_directory.iterdir())
