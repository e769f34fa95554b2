"""`train.py` as a user runs it, on a model small enough to compile in seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from maskrcnn_jax import checkpoints

SMALL = {
    "num_steps": 3,
    "batch_size": 2,
    "log_every": 1,
    "save_every": 1,
    "evaluate_every": 2,
    "test_batch_size": 2,
    "data.shapes_image_size": 64,
    "data.shapes_num_val": 3,
    "data.buckets": "((64, 64),)",
    "data.test_buckets": "((64, 64),)",
    "data.short_sides": "(64,)",
    "data.max_long_side": 64,
    "data.test_short_side": 64,
    "data.test_max_long_side": 64,
    "model.stem_channels": 32,
    "model.fpn_channels": 32,
    "model.box_head_features": 32,
    "model.mask_head_channels": 32,
    "model.mask_head_convs": 1,
    "model.roi.num_samples": 16,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs train.py in a process of its own; all share what they compiled."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def call(workdir, config="configs/shapes.py", **overrides):
        settings = SMALL | {name.replace("__", "."): value for name, value in overrides.items()}
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}", *flags]
        root = Path(__file__).parent.parent
        return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=500)

    return call


def test_an_interrupted_run_ends_as_if_it_had_not_been(run, tmp_path):
    whole = run(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert run(tmp_path / "parts", num_steps=2).returncode == 0
    resumed = run(tmp_path / "parts")
    assert resumed.returncode == 0, resumed.stderr

    a, b = checkpoints.load_run(tmp_path / "whole"), checkpoints.load_run(tmp_path / "parts")
    assert a.step == b.step == 3
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)

    log = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3]
    numbers = json.loads((tmp_path / "parts" / "evaluation.json").read_text())
    names = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()
    assert list(numbers["bbox"]) == list(numbers["segm"]) == names
    assert (tmp_path / "parts" / "predictions.png").stat().st_size > 1000
    assert (tmp_path / "parts" / "detections.json").exists()


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"model__num_classes": 7}, "num_classes must be 6"),
        ({"data__source": "voc"}, "'voc'"),
        ({"data__source": "coco"}, "instances_train2017.json"),
        ({"model__backbone_weights": "absent.npz"}, "absent.npz"),
        ({"model__dpeth": 18}, "dpeth"),
        ({"config": "configs/absent.py"}, "absent.py"),
    ],
)
def test_a_mistake_ends_in_one_message_and_exit_code_2(run, tmp_path, overrides, message):
    result = run(tmp_path, **overrides)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
