"""The commands on a run directory with a tiny model, as a user calls them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import checkpoints, model
from maskrcnn_jax.cli import config_file, evaluate
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.weights import loading
from maskrcnn_jax.weights.report import Report


def tiny_config():
    config = Config(test_batch_size=2)
    config.data.source, config.data.shapes_image_size, config.data.shapes_num_val = "shapes", 64, 3
    config.data.test_short_side = config.data.test_max_long_side = 64
    config.data.test_buckets, config.data.max_instances = ((64, 64),), 8
    network = config.model
    network.num_classes, network.depth = len(ShapesDataset.categories) + 1, 18
    network.fpn_channels = network.mask_head_channels = 8
    network.box_head_features, network.mask_head_convs = 16, 1
    network.rpn.test_num_candidates = network.rpn.test_num_proposals = 20
    network.rpn.train_num_candidates = network.rpn.train_num_proposals = 20
    network.detection.num_detections, network.detection.score_threshold = 5, 0.0
    return config


class FindsOneBox:
    """Stands in for `MaskRCNN`: the upper left quarter of every image is an object of class 1."""

    def __init__(self, config):
        self.config = config

    def apply(self, variables, *arrays, method=None):
        if method == "losses":
            return {name: (jnp.float32(3), jnp.float32(2)) for name in ("first", "second")}, {}
        height, width = arrays[1][:, 0], arrays[1][:, 1]
        boxes = jnp.stack([0 * width, 0 * height, width / 2, height / 2], 1)[:, None]
        ones = jnp.ones(boxes.shape[:2])
        return Detections(boxes, ones.astype(int), 0.75 * ones, jnp.ones((*ones.shape, 28, 28)), ones > 0)


@pytest.fixture
def run_directory(tmp_path, monkeypatch):
    """A run directory to evaluate and predict with, without the minutes that a real model takes to compile."""
    report = Report("run", None, "a stand-in", 1e-5, "as the weights say", 0)
    loaded = loading.LoadedModel(tiny_config(), {}, ShapesDataset.categories, report)
    monkeypatch.setattr(loading, "load", lambda weights: loaded)
    for module in (model, evaluate):
        monkeypatch.setattr(module, "MaskRCNN", FindsOneBox)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.slow
def test_evaluate_and_predict_with_a_real_model(tmp_path, monkeypatch):
    config, categories = tiny_config(), ShapesDataset.categories
    images, sizes = jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]])
    shapes = jax.eval_shape(model.MaskRCNN(config.model).init, jax.random.key(0), images, sizes)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.05, x.shape), x.dtype), shapes)
    variables["constants"] = jax.tree.map(jnp.ones_like, variables["constants"])
    monkeypatch.setattr(checkpoints, "load_run", lambda directory: checkpoints.Run(config, categories, variables, 1))
    assert main(["evaluate", "--weights", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(numbers["losses"]) == 6 and all(0 <= value < 100 for value in numbers["losses"].values())

    dataset = ShapesDataset(1, 64, 1)
    Image.fromarray(dataset[0].image).save(tmp_path / "1.png")
    output = str(tmp_path / "out")
    command = ["predict", str(tmp_path / "1.png"), "--weights", str(tmp_path), "--output", output]
    assert main([*command, "--score-threshold", "0"]) == 0
    evaluated, predicted = (
        json.loads((folder / "detections.json").read_text()) for folder in (tmp_path, tmp_path / "out")
    )
    for a, b in zip([d for d in evaluated if d["image_id"] == 1], predicted, strict=True):
        assert a["category_id"] == b["category_id"]
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.05)


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    assert {"predict", "evaluate", "convert"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments",
    [[], ["predict"], ["predict", "a.png", "--weights", "r", "--output", "o", "--score-threshold", "1.5"]],
    ids=["no command", "no image", "threshold"],
)
def test_wrong_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["predict", "a.png", "--output", "o", "--weights"], ["evaluate", "--weights"], ["convert", "o.npz"]],
    ids=lambda command: command[0],
)
def test_a_missing_run_is_one_message(command, tmp_path, capsys):
    directory = str(tmp_path / "nowhere")
    arguments = ["convert", directory, "o.npz"] if command[0] == "convert" else [*command, directory]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"maskrcnn-jax {command[0]}: ") and directory in error
    assert error.count("\n") == 1


def test_predict_draws_what_it_can_read(run_directory, tmp_path, capsys):
    folders = tmp_path / "a", tmp_path / "b"
    for folder, size in zip(folders, [(50, 70), (64, 40)], strict=True):
        folder.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "007.png")
    broken = tmp_path / "broken.png"
    broken.write_text("not a picture")
    paths = [str(folders[0] / "007.png"), str(broken), str(folders[1] / "007.png")]

    output = tmp_path / "out"
    command = ["predict", *paths, "--weights", str(run_directory), "--output", str(output), "--score-threshold", "0"]
    assert main(command) == 1

    captured = capsys.readouterr()
    assert str(broken) in captured.err and str(output) in captured.out
    assert {path.name for path in output.iterdir()} == {"007.png", "007-2.png", "detections.json"}
    with Image.open(output / "007.png") as picture:
        assert picture.size == (700, 500)  # Enlarged, for legible labels.
    results = json.loads((output / "detections.json").read_text())
    assert {(r["image_id"], r["file_name"]) for r in results} == {(7, paths[0]), ("007-2", paths[2])}
    assert {tuple(r["segmentation"]["size"]) for r in results} == {(50, 70), (64, 40)}
    np.testing.assert_allclose([r["bbox"] for r in results], [[0, 0, 35, 25], [0, 0, 20, 32]], atol=0.5)


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


CONFIG = """
from maskrcnn_jax.config import Config, DataConfig

def get_config():
    data = DataConfig(source="shapes", shapes_image_size=64, shapes_num_val=1, max_instances=8)
    data.test_short_side, data.test_max_long_side, data.test_buckets = 64, 64, ((64, 64),)
    return Config(data=data)
"""


def test_evaluate_takes_the_data_but_not_the_network_of_another_config(run_directory, tmp_path):
    (tmp_path / "other.py").write_text(CONFIG)
    output = tmp_path / "out"
    command = ["evaluate", "--weights", str(run_directory), "--output", str(output)]
    assert main([*command, "--config", str(tmp_path / "other.py")]) == 0
    assert [d["image_id"] for d in json.loads((output / "detections.json").read_text())] == [1]
    assert not list(run_directory.iterdir())
    combined = evaluate._combine(tiny_config(), config_file.read(tmp_path / "other.py"))
    assert combined.model.depth == 18 and combined.model.detection.num_detections == 100


def test_a_missing_config_is_one_message(run_directory, tmp_path, capsys):
    path = str(tmp_path / "none.py")
    assert main(["evaluate", "--weights", str(run_directory), "--config", path]) == 2
    assert path in capsys.readouterr().err
