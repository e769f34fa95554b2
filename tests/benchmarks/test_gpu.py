"""The benchmark for an accelerator, without one: what it needs, how it goes on, its tables.

Nothing large is compiled here, except in the slow test, which runs everything in small.
"""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import gpu, gpu_checks, gpu_checks_maps, gpu_models, gpu_operators, gpu_tables
from benchmarks.gpu import Measurement
from benchmarks.gpu_checks import Check
from tests.markdown import ROOT

# The package needs these, the benchmark must not: a machine with a card may have only jax.
ABSENT = ["PIL", "cv2", "grain", "matplotlib", "ml_collections", "pycocotools", "safetensors"]
ABSENT += ["tensorboardX", "tensorflow_datasets", "torch", "torchvision"]


def test_it_needs_few_packages():
    code = (
        f"import sys; sys.modules |= dict.fromkeys({ABSENT}); import benchmarks.gpu, tests.oracles"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Rows:
    """Measurements that only count how often they run."""

    def __init__(self, **endings):
        self.endings, self.ran = endings, []

    def all(self):
        return [Measurement(name, lambda name=name: self.make(name)) for name in self.endings]

    def make(self, name):
        self.ran.append(name)
        if isinstance(self.endings[name], Exception):
            raise self.endings[name]
        return self.endings[name]

    def measure(self, result):
        """Runs one call; returns what it ran, and the result as it was written last."""
        self.ran, written = [], []
        gpu.measure(self.all(), result, lambda: written.append(json.dumps(result)))
        return self.ran, json.loads(written[-1])


def test_a_call_goes_on_where_the_last_one_stopped():
    rows = Rows(a={"seconds": 1.0}, b=gpu.Unfinished(), c={"seconds": 3.0})
    ran, result = rows.measure({"rows": {}, "code": "x"})
    assert ran == ["a", "b"] and result["not_run"] == ["b", "c"] and "running" not in result
    rows.endings["b"] = {"seconds": 2.0}
    ran, result = rows.measure(result)
    assert ran == ["b", "c"] and result["not_run"] == []
    assert [result["rows"][name]["seconds"] for name in "abc"] == [1.0, 2.0, 3.0]
    assert rows.measure(result)[0] == []


def test_failures_become_rows_and_come_last_in_the_next_call():
    rows = Rows(a=ValueError("no such kernel"), b={"seconds": 2.0})
    ran, result = rows.measure({"rows": {}, "code": "x"})
    assert ran == ["a", "b"] and result["rows"]["a"]["failed"] == "ValueError: no such kernel"
    rows.endings = {"a": {"seconds": 1.0}, "b": {"seconds": 2.0}, "c": {"seconds": 3.0}}
    ran, result = rows.measure(result)
    assert ran == ["c", "a"] and result["rows"]["a"]["seconds"] == 1.0


def test_a_row_that_ended_the_process_comes_last():
    rows = Rows(a={"seconds": 1.0}, b={"seconds": 2.0})
    ran, result = rows.measure({"rows": {}, "code": "x", "running": "a"})
    assert ran == ["b", "a"] and result["rows"]["a"]["seconds"] == 1.0


def test_rows_of_other_code_are_measured_again():
    rows = Rows(a={"seconds": 1.0}, **{"torchvision: a": {"seconds": 2.0}})
    _, result = rows.measure({"rows": {}, "code": "x"})
    assert rows.measure(result | {"code": "y"})[0] == ["a"]  # Ours changed, theirs did not.


def test_results_of_another_machine_are_not_mixed(tmp_path):
    file = tmp_path / "result.json"
    assert gpu.start(file, {"device": "one"}) == {"device": "one", "rows": {}}
    file.write_text('{"device": "one", "rows": {"a": {}}}')
    assert gpu.start(file, {"device": "one"})["rows"] == {"a": {}}
    with pytest.raises(ValueError, match=r"result.json has device one, but this call has two"):
        gpu.start(file, {"device": "two"})


def call(monkeypatch, rows, *arguments):
    """Calls the program with other measurements."""
    monkeypatch.setattr(gpu, "measurements", lambda setup, time_left: rows.all())
    monkeypatch.setattr(gpu.gpu_timing, "matmul_rate", lambda: 5e14)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", *map(str, arguments)])
    return gpu.main()


def test_calls_write_figures_and_tables(tmp_path, monkeypatch):
    rows = Rows(a={"seconds": 1.0}, b=gpu.Unfinished(), c={"seconds": 3.0})
    folder = tmp_path / "new" / "out"
    assert call(monkeypatch, rows, "--output", folder) == 0
    text = (folder / "result.md").read_text()
    assert "500 TFLOP/s" in text and "| a |  | 1000 |" in text and "Not run: b; c." in text
    rows.endings["b"] = {"seconds": 2.0}
    assert call(monkeypatch, rows, "--output", folder, "--only", "b") == 0
    assert rows.ran == ["a", "b", "b"]
    result = json.loads((folder / "result.json").read_text())
    assert result["rows"].keys() == {"a", "b"} and result["not_run"] == ["c"]
    assert "Not run: c." in (folder / "result.md").read_text()
    assert {x.name for x in folder.iterdir()} == {"result.json", "result.md"}


def test_a_wrong_prediction_ends_the_call_before_it_measures(tmp_path, monkeypatch, capsys):
    rows, absent = Rows(a={"seconds": 1.0}), tmp_path / "absent.json"
    assert call(monkeypatch, rows, "--output", tmp_path, "--prediction", absent) == 2
    assert rows.ran == [] and "absent.json" in capsys.readouterr().err


def prediction(**changes):
    cost = {"chip": {"name": "h200"}, "seconds": 0.016, "kinds": {}}
    cost["stages"] = {"fpn": {"seconds": 0.004}, "rpn": {"seconds": 0.003}}
    plan = {"program": "train", "stage": None, "num_devices": 1, "bucket": [800, 1344]}
    plan |= {"batch_size": 4, "model_flops": {"training": 1e12, "forward": 4e11}, "cost": cost}
    return plan | changes


def test_predictions_belong_to_rows(tmp_path):
    files = tmp_path / "train.json", tmp_path / "detect.json"
    files[0].write_text(json.dumps(prediction()))
    files[1].write_text(json.dumps(prediction(program="detect", batch_size=1)))
    found = gpu_tables.read_predictions(files, (800, 1344))
    assert list(found) == ["training, batch 4", "detection, batch 1"]
    assert found["training, batch 4"]["operations"] == 4e12
    assert found["detection, batch 1"]["operations"] == 4e11
    setup = gpu_models.Setup((800, 1344), 10, False, tmp_path)
    assert found.keys() <= {x.name for x in gpu.measurements(setup, lambda: 1.0)}


@pytest.mark.parametrize(
    "plan, complaint",
    [
        ("[]", "is not an output of maskrcnn-jax plan"),
        ("{", "is not an output of maskrcnn-jax plan"),
        (json.dumps(prediction(cost=None)), "has no cost of a whole program"),
        (json.dumps(prediction(stage="fpn")), "has no cost of a whole program"),
        (json.dumps(prediction(num_devices=8)), "expected 1 device"),
        (json.dumps(prediction(bucket=[64, 128])), r"expected 1 device and \[800, 1344\]"),
    ],
)
def test_wrong_predictions_are_refused(tmp_path, plan, complaint):
    file = tmp_path / "plan.json"
    file.write_text(plan)
    with pytest.raises(ValueError, match=f"plan.json {complaint}|{complaint}"):
        gpu_tables.read_predictions([file], (800, 1344))


def test_tables_show_what_was_measured_beside_what_was_predicted(tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(prediction()))
    kernel = {"name": "fusion_1", "runs": 2.0, "seconds": 0.001, "priced": 0.0012}
    kernel |= {"stage": "fpn", "kind": "elementwise", "source": "modules/fpn.py:9"}
    profile = {"launches": 900.0, "seconds": 0.019, "busy": 0.018, "kernels": [kernel]}
    profile |= {"stages": {"fpn": {"seconds": 0.005, "priced": 0.0041}}, "kinds": {}}
    checks = {"differences": {"NMS": 0.0, "top-k": 1.0}, "failures": {"top-k": "differs"}}
    rows = {
        "ops": checks | {"not_run": ["RoIPool"], "passed": 1, "code": "x"},
        "training, batch 4": {"seconds": 0.02, "profile": profile, "code": "x"},
        "training, batch 8": {"failed": "OutOfMemory: a | b\nc", "code": "y"},
        "torchvision: training, batch 4": {"seconds": 0.05, "code": "x"},
    }
    result = {"device": "H200", "bucket": [800, 1344], "bfloat16_matmul": 5e14, "code": "x"}
    result |= {"versions": {"jax": "1"}, "rows": rows, "not_run": ["training, batch 16"]}
    result["predictions"] = gpu_tables.read_predictions([file], (800, 1344))
    text = gpu_tables.to_markdown(result)
    (line,) = (x for x in text.splitlines() if x.startswith("| training, batch 4 |"))
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    # Milliseconds, predicted, times as fast as torchvision, share: 4 TFLOP in 20 ms of 500 per s.
    assert cells[2:6] == ["20", "16", "2.50", "40.0%"] and "900" in cells
    assert "| fpn | 5.000 | 4.100 | 4.000 |" in text and "| rpn |  |  | 3.000 |" in text
    assert "| fusion_1 | fpn, elementwise, modules/fpn.py:9 | 2 | 1.000 | 1.200 |" in text
    assert "| training, batch 8 (other code) | failed: OutOfMemory: a / b c |" in text
    assert "1 passed, 1 failed." in text and "- top-k: differs" in text
    assert "Not run: RoIPool." in text and "Not run: training, batch 16." in text


def test_checks_find_differences_errors_and_the_end_of_their_time():
    def raises():
        raise TypeError("no")

    checks = {
        "equal": lambda: Check((np.ones(2), np.arange(3)), (np.ones(2), np.arange(3))),
        "close": lambda: Check(np.array([1.0, 100.5]), np.array([1.0, 100.0]), 1e-2),
        "far": lambda: Check(np.array([1.0, 105.0]), np.array([1.0, 100.0]), 1e-2),
        "nan": lambda: Check(np.array([np.nan]), np.array([1.0]), 1e-2),
        "shape": lambda: Check(np.ones((2, 1)), np.ones(2)),
        "error": raises,
    }
    row = gpu_checks.run(checks, 60.0)
    assert row["failures"].keys() == {"far", "nan", "shape", "error"} and row["passed"] == 2
    assert row["not_run"] == [] and gpu_checks.run(checks, -1.0)["not_run"] == list(checks)


QUICK = ["top-k", "matching", "sampling", "anchors", "boxes", "gradient of a bias, bfloat16"]


@pytest.mark.parametrize("name", QUICK)
def test_ops_equal_numpy(name):
    row = gpu_checks.run({name: (gpu_checks.of_boxes() | gpu_checks_maps.of_maps())[name]}, 60.0)
    assert row["passed"] == 1, row["failures"]


def test_overlapping_rois_lie_around_the_objects_inside_the_image():
    spread, close = (
        make((800, 1344)) for make in (gpu_operators.spread_rois, gpu_operators.overlapping_rois)
    )
    assert spread.shape == close.shape == (4, 512, 4)
    assert (close >= 0).all() and (close <= [1344, 800, 1344, 800]).all()
    objects = gpu_models.boxes(gpu_models.NUM_OBJECTS, (800, 1344), seed=2)
    distances = np.abs(close[2][:, None] - objects[None]).max(axis=-1).min(axis=1)
    assert (
        np.median(distances) < 60 < np.median(np.abs(spread[2][:, None] - objects).max(-1).min(1))
    )


def test_a_batch_is_of_the_shape_of_the_pipelines():
    from maskrcnn_jax.data.pack import batch_shapes

    config = gpu_models.make_config(tiny=False)
    batch = gpu_models.make_batch(2, (64, 96))
    expected = batch_shapes(config, (64, 96), 2)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (batch, expected))
    assert shapes[0] == shapes[1]
    assert 0 < np.asarray(batch.instances.masks.values).mean() < 255


@pytest.mark.slow
def test_everything_runs_in_small(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(prediction(bucket=[64, 128])))
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--repeats", "1"]
    command += ["--output", tmp_path / "out", "--prediction", plan, "--minutes", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    failed = {name: row["failed"] for name, row in result["rows"].items() if "failed" in row}
    assert result["not_run"] == [] and not failed
    assert result["rows"][gpu.CHECKS]["failures"] == {}
    assert result["rows"]["training, batch 4"]["profile"]["kernels"]
