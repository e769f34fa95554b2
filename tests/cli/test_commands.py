"""The commands on a run directory with a tiny model, as a user calls them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli.main import main
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.runs import run_directory
from maskrcnn_jax.variables import variable_shapes
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
