"""Real processes train one model together over gloo."""

import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import distributed
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.data.sources import VAL_SEED
from maskrcnn_jax.runs import run_directory
from tests.train_process import SMALL, finish, log_of, start, start_command, start_together

pytestmark = pytest.mark.slow

RUN = {
    "num_steps": 4,
    "batch_size": 4,
    "evaluate_every": 2,
    "save_every": 2,
    "data__shapes_num_val": 5,
}
# The time until the other processes stop. The connections of a dead process break at once; a frozen
# process misses its heartbeat.
SECONDS_AFTER_DEATH, SECONDS_AFTER_SILENCE = 30, distributed.HEARTBEAT_SECONDS + 30


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def finish_all(processes):
    results = [finish(process) for process in processes]
    for result in results:
        assert result.returncode == 0, [(result.returncode, result.stderr) for result in results]
    return results


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    finish_all([start(workdir, cache, **RUN)])
    return workdir


def train_together(count, workdir, cache):
    results = finish_all(start_together(count, workdir, cache, **RUN))
    assert "step 4 of 4" in results[0].stdout
    assert not any("step" in result.stdout for result in results[1:])
    assert (workdir / "predictions.png").exists()
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory, cache):
    """The uninterrupted run of two processes."""
    return train_together(2, tmp_path_factory.mktemp("runs") / "two", cache)


def assert_same_run(workdir, other):
    for ours, theirs in zip(log_of(workdir), log_of(other), strict=True):
        flat = jax.tree_util.tree_leaves_with_path(ours)
        for (path, x), y in zip(flat, jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4, err_msg=f"{ours['step']} {path}")


def test_two_processes_train_and_evaluate_as_one(alone, two):
    assert_same_run(two, alone)


def test_four_processes_train_and_evaluate_as_one(alone, cache, tmp_path):
    assert_same_run(train_together(4, tmp_path / "run", cache), alone)


def read(path):
    return json.loads(path.read_text())


def test_two_processes_are_two_devices_to_the_bit(two, cache, tmp_path):
    """The sum of two numbers does not depend on their order; with more devices it does."""
    workdir = tmp_path / "run"
    finish_all([start(workdir, cache, devices=2, **RUN)])
    ours, theirs = (run_directory.load_run(run).variables for run in (workdir, two))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for entry, other in zip(log_of(workdir), log_of(two), strict=True):
        assert entry.pop("validation", {}) == pytest.approx(other.pop("validation", {}), rel=1e-6)
        assert entry == other
    evaluation, other = (read(run / "evaluation.json") for run in (workdir, two))
    for kind in ("bbox", "segm"):
        assert evaluation[kind] == pytest.approx(other[kind], abs=1e-6)


@pytest.fixture(scope="module")
def found_as_truth(alone, tmp_path_factory):
    """The validation images of the run with a third of its detections as truth, so AP is not 0."""
    folder = tmp_path_factory.mktemp("found")
    shapes = ShapesDataset(RUN["data__shapes_num_val"], SMALL["data.shapes_image_size"], VAL_SEED)
    content = shapes.annotations()
    for example, image in zip(shapes, content["images"], strict=True):
        image["file_name"] = f"{example.image_id}.png"
        Image.fromarray(example.image).save(folder / image["file_name"])
    (folder / "train.json").write_text(json.dumps(content))
    found = enumerate(read(alone / "detections.json")[::3], start=1)
    truth = [detection | {"id": i, "iscrowd": 0, "area": 1} for i, detection in found]
    (folder / "val.json").write_text(json.dumps(content | {"annotations": truth}))
    overrides = {f"data__{split}_images": folder for split in ("train", "val")}
    overrides |= {
        f"data__{split}_annotations": folder / f"{split}.json" for split in ("train", "val")
    }
    return {"data__source": "coco", **overrides}


def evaluate_again(count, run, workdir, cache, data):
    """Starts a finished run with other data, so that it only evaluates."""
    shutil.copytree(run, workdir)
    for name in ("evaluation.json", "detections.json"):
        (workdir / name).unlink()
    finish_all(start_together(count, workdir, cache, **RUN, **data))
    assert log_of(workdir) == log_of(run)
    return read(workdir / "evaluation.json"), read(workdir / "detections.json")


def assert_same_detections(ours, theirs):
    assert len(ours) > 0
    for x, y in zip(ours, theirs, strict=True):
        assert (x["image_id"], x["category_id"]) == (y["image_id"], y["category_id"])
        assert x["score"] == pytest.approx(y["score"], abs=1e-4)
        assert x["bbox"] == pytest.approx(y["bbox"], abs=0.05)


def test_processes_evaluate_the_same_parameters_alike(alone, cache, tmp_path, found_as_truth):
    expected, expected_detections = evaluate_again(1, alone, tmp_path / "1", cache, found_as_truth)
    assert 0.2 < expected["bbox"]["AP"] < 0.9 and 0.2 < expected["segm"]["AP"] < 0.9
    assert_same_detections(expected_detections, read(alone / "detections.json"))
    for count in (2, 4):
        numbers, detections = evaluate_again(
            count, alone, tmp_path / str(count), cache, found_as_truth
        )
        assert_same_detections(detections, expected_detections)
        for kind in ("bbox", "segm", "losses"):
            assert numbers[kind] == pytest.approx(expected[kind], abs=1e-4)


# Updates of SGD are sums of gradients. Other numbers of devices add in another order, which changes
# the updates by 1e-5 of their size. With ReLU some change by a tenth, because an input that rounds
# to the other side of zero switches a gradient.
SUMS = {
    "num_steps": 3,
    "batch_size": 8,
    "evaluate_every": 0,
    "keep_checkpoints": 3,
    "data__shapes_num_val": 5,
}
SUMS |= {
    "optimizer__name": "sgd",
    "optimizer__learning_rate": 0.02,
    "optimizer__warmup_factor": 1.0,
    "smooth": True,
}


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, cache):
    """The first three steps of one process with one device."""
    workdir = tmp_path_factory.mktemp("runs") / "one device"
    finish_all([start(workdir, cache, **SUMS)])
    return workdir


@pytest.fixture(scope="module", params=["eight devices", "two processes"])
def one_step(request, tmp_path_factory, cache):
    """A run with one step by several devices or processes."""
    workdir, run = tmp_path_factory.mktemp("runs") / request.param, SUMS | {"num_steps": 1}
    many = {
        "eight devices": lambda: [start(workdir, cache, devices=8, **run)],
        "two processes": lambda: start_together(2, workdir, cache, **run),
    }
    finish_all(many[request.param]())
    return workdir


def parameters(workdir, step):
    return jax.tree.leaves(
        run_directory.load_run(workdir / "checkpoints" / str(step)).variables["params"]
    )


def assert_same_moves(workdir, other, first, last):
    for before, x, y in zip(
        parameters(other, first), *(parameters(run, last) for run in (workdir, other)), strict=True
    ):
        allowed = 1e-4 * np.linalg.norm(y - before) + 3 * np.finfo(np.float32).eps * np.linalg.norm(
            before
        )
        assert np.linalg.norm(x - y) <= allowed


def test_a_run_goes_on_with_fewer_devices_and_processes(one_device, one_step, cache, tmp_path):
    workdir = shutil.copytree(one_step, tmp_path / "run")
    for step, devices in ((2, 2), (3, 1)) if one_step.name == "eight devices" else ((3, 1),):
        finish_all([start(workdir, cache, devices=devices, **SUMS | {"num_steps": step})])
    assert_same_moves(workdir, one_device, first=1, last=3)


def detect(weights, folder, cache):
    """The detections of the commands on one device: `evaluate`, `predict`, and an artifact."""
    folder.mkdir()
    Image.fromarray(ShapesDataset(1, 64, VAL_SEED)[0].image).save(folder / "image.png")
    predict = ["predict", folder / "image.png", "--score-threshold", "0.1", "--output"]
    for arguments in (
        ["evaluate", "--weights", weights, "--output", folder / "evaluate"],
        [*predict, folder / "predict", "--weights", weights],
        ["export", "--weights", weights, folder / "model.npz", "--size", "64x64"],
        [*predict, folder / "artifact", "--artifact", folder / "model.npz"],
    ):
        finish_all([start_command(cache, *arguments)])
    return {
        name: read(folder / name / "detections.json")
        for name in ("evaluate", "predict", "artifact")
    }


@pytest.fixture(scope="module")
def detected_by_one(one_device, tmp_path_factory, cache):
    return detect(
        one_device / "checkpoints" / "1", tmp_path_factory.mktemp("detected") / "one", cache
    )


def test_commands_detect_with_a_checkpoint_of_many(detected_by_one, one_step, cache, tmp_path):
    detected = detect(one_step / "checkpoints" / "1", tmp_path / "many", cache)
    for name, detections in detected.items():
        assert_same_detections(detections, detected_by_one[name])


def train_until_logged(processes, workdir, steps):
    while len(log_of(workdir)) < steps:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_sigterm_to_one_stops_all_at_the_same_step(cache, tmp_path):
    workdir = tmp_path / "run"
    processes = start_together(
        2, workdir, cache, **RUN | {"num_steps": 1000, "save_every": 0, "evaluate_every": 0}
    )
    train_until_logged(processes, workdir, 2)
    processes[1].terminate()
    results = [finish(process) for process in processes]
    assert [result.returncode for result in results] == [distributed.EXIT_PREEMPTED] * 2, results[
        0
    ].stderr
    stopped = log_of(workdir)[-1]["step"]
    assert f"SIGTERM: saved after step {stopped}" in results[0].stdout
    assert run_directory.load_run(workdir).step == stopped


def assert_same_bits(workdir, other):
    ours, theirs = run_directory.load_run(workdir), run_directory.load_run(other)
    assert ours.step == theirs.step
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    for name in ("evaluation.json", "detections.json"):
        assert read(workdir / name) == read(other / name), name
    assert log_of(workdir) == log_of(other)


def test_two_processes_go_on_after_sigterm_with_the_same_bits(two, cache, tmp_path):
    workdir = tmp_path / "run"
    processes = start_together(2, workdir, cache, **RUN)
    train_until_logged(processes, workdir, 1)
    processes[1].terminate()
    results = [finish(process) for process in processes]
    assert [result.returncode for result in results] == [distributed.EXIT_PREEMPTED] * 2, results[
        0
    ].stderr
    finish_all(start_together(2, workdir, cache, **RUN))
    assert_same_bits(workdir, two)


@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_go_on_after_one_was_killed_with_the_same_bits(two, cache, tmp_path, victim):
    """The newest checkpoint is damaged too, so both processes resume from the one before."""
    workdir = tmp_path / "run"
    processes = start_together(2, workdir, cache, **RUN)
    while not (workdir / "checkpoints" / "4").is_dir():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[victim].kill()
    for process in processes:
        finish(process)
    for data in (workdir / "checkpoints" / "4" / "training").glob("**/d/*"):
        os.truncate(data, data.stat().st_size // 2)
    results = finish_all(start_together(2, workdir, cache, **RUN))
    assert "going back to the one before" in results[0].stderr
    assert (workdir / "checkpoints" / "4.broken").is_dir()
    assert_same_bits(workdir, two)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    "harm, seconds",
    [(signal.SIGKILL, SECONDS_AFTER_DEATH), (signal.SIGSTOP, SECONDS_AFTER_SILENCE)],
)
def test_the_others_stop_when_one_dies_or_freezes(cache, tmp_path, victim, harm, seconds):
    workdir = tmp_path / "run"
    processes = start_together(
        2, workdir, cache, **RUN | {"num_steps": 1000, "save_every": 0, "evaluate_every": 0}
    )
    train_until_logged(processes, workdir, 2)
    processes[victim].send_signal(harm)
    begin = time.monotonic()
    survivor = finish(processes[1 - victim])
    passed = time.monotonic() - begin
    processes[victim].kill()
    finish(processes[victim])
    assert passed < seconds, survivor.stderr
    assert survivor.returncode not in (0, -signal.SIGKILL)
    assert "lost the others" in survivor.stderr or "another task died" in survivor.stderr
