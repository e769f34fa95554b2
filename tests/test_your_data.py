"""Runs the script of docs/your-data.md on photographs, with a model too small to learn."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn_jax.runs import run_directory
from tests import markdown
from tests.train_process import ROOT

SMALL = {
    "num_steps": 2,
    "log_every": 1,
    "evaluate_every": 0,
    "model.num_classes": 4,
    "model.backbone.depth": 18,
    "model.backbone.norm": "group",
    "model.backbone.stem_channels": 32,
    "model.fpn.channels": 32,
    "model.box_head.features": 32,
    "model.mask_head.channels": 32,
    "model.mask_head.num_convs": 1,
    "model.roi.num_samples": 16,
    "detection.num_detections": 10,
    "data.short_sides": "(48,)",
    "data.max_long_side": 64,
    "data.test_short_side": 48,
    "data.test_max_long_side": 64,
    "data.buckets": "((64, 64),)",
    "data.test_buckets": "((64, 64),)",
}


def commands(text):
    """The program, the action and the options of each of our commands, without conditions."""
    lines = [
        line.replace("|| [ $? -eq 1 ]", "").rpartition("|| ")[2]
        for line in markdown.commands(re.sub(r"\|\|\n\s*", "|| ", text))
    ]
    ours = [
        shlex.split(line, comments=True) for line in lines if "train.py" in line or "-jax" in line
    ]
    return [(words[:2], {word for word in words if word.startswith("--")}) for words in ours]


def test_the_page_explains_the_commands_of_the_script():
    script = (ROOT / "docs" / "your_data.sh").read_text()
    for variable, value in {
        "$images": "photos",
        "$annotations": "annotations.json",
        "$out": "out",
    }.items():
        script = script.replace(variable, value)
    script = script.replace("$checkout/", "")
    explained = commands(
        "".join(
            block.code for block in markdown.blocks((ROOT / "docs" / "your-data.md").read_text())
        )
    )
    found = commands(script)
    assert [words[:1] for words, _ in found] == [["maskrcnn-jax"]] * 2 + [["python"]] + [
        ["maskrcnn-jax"]
    ] * 2
    for program, options in found:
        assert any(program == other and options <= more for other, more in explained), (
            program,
            options,
        )


def run(tmp_path, *arguments):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "MASKRCNN_JAX_CACHE": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [ROOT / "docs" / "your_data.sh", *arguments]
    return subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500
    )


@pytest.mark.slow  # Starts five processes, three of which compile.
def test_the_script_goes_from_photographs_to_a_prediction(shared, tmp_path):
    folder = shared / "data" / "fruits_nuts"
    images, annotations = folder / "train", folder / "instances_train.json"
    out = tmp_path / "out"
    flags = [f"--config.{name}={value}" for name, value in SMALL.items()]
    result = run(tmp_path, images, annotations, out, *flags)
    assert result.returncode == 0, result.stderr
    assert (
        "18 of 18 images are drawn" in result.stdout
        and len(list((out / "look").glob("page-*.png"))) == 2
    )
    assert len(json.loads((out / "train.json").read_text())["images"]) == 13
    assert run_directory.load_run(out / "run").step == 2
    names = {path.name for path in (out / "run").iterdir()}
    assert names >= {
        "report.html",
        "evaluation.json",
        "metrics.jsonl",
        "predictions.png",
        "categories.json",
    }
    assert "<h1>Evaluation of" in (out / "evaluation.html").read_text()
    (drawing,) = (out / "predictions").glob("*.png")
    held_out = json.loads((out / "val.json").read_text())["images"]
    assert drawing.stem == Path(held_out[0]["file_name"]).stem
