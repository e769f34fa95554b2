"""Models of 1, 4 and 13 channels from the command line: training to prediction and export."""

import ast
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from maskrcnn_jax.cli.main import main
from tests.image_files import files

pytestmark = pytest.mark.slow
SIDE = 64
CONFIG = """
from configs import shapes

def get_config():
    config = shapes.get_config()
    config.num_steps, config.log_every, config.save_every, config.batch_size = 40, 5, 40, 2
    config.optimizer.warmup_steps = 5
    data = config.data
    data.source, data.num_threads = "coco", 1
    data.short_sides, data.max_long_side = (64,), 64
    data.test_short_side = data.test_max_long_side = 64
    data.buckets = data.test_buckets = ((64, 64),)
    data.train_images = data.val_images = {folder!r}
    data.train_annotations = data.val_annotations = {annotations!r}
    config.model.num_classes, config.model.backbone.depth = 2, 18
    config.model.image_mean, config.model.image_std = {mean!r}, {std!r}
    data.image_dtype = {dtype!r}
    return config
"""


def squares(folder, count, num_channels, kind):
    """Images of noise with two squares, which are bright in the last channel only."""
    folder.mkdir()
    random, images, annotations = np.random.default_rng(0), [], []
    for i in range(1, count + 1):
        pixels = random.uniform(1000, 3000, (SIDE, SIDE, num_channels))
        for row, column in ((4, random.integers(2, 30)), (36, random.integers(2, 30))):
            side = int(random.integers(16, 24))
            pixels[row : row + side, column : column + side, -1] += 20_000
            x0, y0, x1, y1 = map(int, (column, row, column + side, row + side))
            about = {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0}
            outline = [[x0, y0, x1, y0, x1, y1, x0, y1]]
            annotations.append(about | {"bbox": [x0, y0, side, side], "segmentation": outline})
        name = f"{i}.{kind}"
        if kind == "tif":
            tifffile = pytest.importorskip("tifffile")
            options = {"photometric": "minisblack", "planarconfig": "contig"}
            tifffile.imwrite(folder / name, pixels.astype(np.uint16), **options)
        else:
            content = files.npy((pixels / 100).astype(np.uint8))
            (folder / name).write_bytes(content)
        images.append({"id": i, "file_name": name, "height": SIDE, "width": SIDE})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "square"}]
    (folder / "a.json").write_text(json.dumps(content))
    return str(folder), str(folder / "a.json")


def settings_of(folder, annotations, capsys):
    """The settings that `data statistics` prints, evaluated."""
    assert main(["data", "statistics", "--images", folder, "--annotations", annotations]) == 0
    lines = capsys.readouterr().out.splitlines()
    pairs = [line.removeprefix("  config.").split(" = ") for line in lines if " = " in line]
    found = {field: ast.literal_eval(value) for field, value in pairs}
    return {"data.image_dtype": "uint8"} | found


def run(*arguments):
    command = [sys.executable, "-m", "maskrcnn_jax", *map(str, arguments)]
    one_device = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, capture_output=True, text=True, env=one_device)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("num_channels, kind", [(1, "npy"), (4, "npy"), (13, "tif")])
def test_train_evaluate_predict_export_and_convert(tmp_path, capsys, num_channels, kind):
    folder, annotations = squares(tmp_path / "data", 12, num_channels, kind)
    found = settings_of(folder, annotations, capsys)
    assert len(found["model.image_mean"]) == num_channels
    assert found["data.image_dtype"] == ("float32" if kind == "tif" else "uint8")
    config = tmp_path / "config.py"
    text = CONFIG.format(
        folder=folder,
        annotations=annotations,
        mean=found["model.image_mean"],
        std=found["model.image_std"],
        dtype=found["data.image_dtype"],
    )
    config.write_text(text)
    workdir = tmp_path / "run"
    run("train", f"--config={config}", f"--workdir={workdir}")
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    trained = json.loads((workdir / "evaluation.json").read_text())
    assert (workdir / "report.html").is_file()

    run(
        "evaluate",
        "--weights",
        workdir,
        "--output",
        tmp_path / "again",
        "--report",
        tmp_path / "r.html",
    )
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert again["bbox"] == pytest.approx(trained["bbox"], abs=1e-6)

    image = f"{folder}/1.{kind}"
    run("predict", image, "--weights", workdir, "--output", tmp_path / "p")
    artifact = tmp_path / "a.npz"
    run("export", "--weights", workdir, artifact)
    run("predict", image, "--artifact", artifact, "--output", tmp_path / "q")
    mine, exported = (
        json.loads((tmp_path / name / "detections.json").read_text()) for name in "pq"
    )
    assert len(mine) == len(exported)
    for a, b in zip(mine, exported, strict=True):
        assert a["bbox"] == pytest.approx(b["bbox"], abs=0.01)

    run("convert", workdir, tmp_path / "w.npz")
    shown = f"{num_channels - 1}"
    run(
        "data",
        "browse",
        "--config",
        config,
        "--output",
        tmp_path / "look",
        "--augmented",
        "--set",
        f"data.shown_channels=({shown},)",
    )
    run("predict", image, "--weights", tmp_path / "w.npz", "--output", tmp_path / "r")
    assert json.loads((tmp_path / "r" / "detections.json").read_text()) == mine


def test_another_number_of_channels_is_refused_by_name(tmp_path, capsys):
    folder, annotations = squares(tmp_path / "data", 3, 4, "npy")
    arguments = ["--images", folder, "--annotations", annotations, "--channels", "5"]
    assert main(["data", "statistics", *arguments]) == 2
    assert "1.npy: it has 4 channels; expected 5" in capsys.readouterr().err
