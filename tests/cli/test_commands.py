"""The commands on a run directory with a tiny model, as a user calls them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli import config_file, evaluate
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.runs import run_directory
from maskrcnn_jax.variables import variable_shapes
from maskrcnn_jax.weights import loading
from maskrcnn_jax.xla import compiler
from tests.cli.conftest import tiny_config


@pytest.mark.slow
def test_evaluate_and_predict_with_a_real_model(tmp_path, monkeypatch):
    config, categories = tiny_config(), ShapesDataset.categories
    shapes = variable_shapes(config.model)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.05, x.shape), x.dtype), shapes)
    variables["constants"] = jax.tree.map(jnp.ones_like, variables["constants"])
    monkeypatch.setattr(
        run_directory,
        "load_run",
        lambda directory: run_directory.Run(config, categories, variables, 1),
    )
    assert main(["evaluate", "--weights", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(numbers["losses"]) == 6 and all(
        0 <= value < 100 for value in numbers["losses"].values()
    )

    dataset = ShapesDataset(1, 64, 1)
    Image.fromarray(dataset[0].image).save(tmp_path / "1.png")
    output = str(tmp_path / "out")
    command = ["predict", str(tmp_path / "1.png"), "--weights", str(tmp_path), "--output", output]
    assert main([*command, "--score-threshold", "0"]) == 0
    evaluated, predicted = (
        json.loads((folder / "detections.json").read_text())
        for folder in (tmp_path, tmp_path / "out")
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
    [
        [],
        ["predict"],
        ["predict", "a.png", "--weights", "r", "--output", "o", "--score-threshold", "1.5"],
    ],
    ids=["no command", "no image", "threshold"],
)
def test_wrong_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "IMAGE", "--output", "o", "--weights"],
        ["evaluate", "--weights"],
        ["convert", "o.npz"],
    ],
    ids=lambda command: command[0],
)
def test_a_missing_run_is_one_message(command, tmp_path, capsys):
    directory, image = str(tmp_path / "nowhere"), str(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    arguments = (
        ["convert", directory, "o.npz"] if command[0] == "convert" else [*command, directory]
    )
    arguments = [image if argument == "IMAGE" else argument for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"maskrcnn-jax {command[0]}: ") and directory in error
    assert error.count("\n") == 1


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


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_commands_keep_what_they_compile_in_the_users_cache_folder(
    command, run_directory, tmp_path, monkeypatch
):
    monkeypatch.setenv("MASKRCNN_JAX_CACHE", str(tmp_path))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "1.png")
    images = [str(tmp_path / "1.png")] if command == "predict" else []
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        assert (
            main(
                [
                    command,
                    *images,
                    "--weights",
                    str(run_directory),
                    "--output",
                    str(tmp_path / "out"),
                ]
            )
            == 0
        )
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_predict_compiles_once_for_all_images_of_a_bucket(run_directory, tmp_path, compilations):
    paths = [tmp_path / f"{side}.png" for side in (33, 48, 64)]
    for path in paths:
        Image.fromarray(np.zeros((64, int(path.stem), 3), np.uint8)).save(path)
    assert (
        main(
            [
                "predict",
                *map(str, paths),
                "--weights",
                str(run_directory),
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert len(compilations) == 1
