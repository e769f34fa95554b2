"""Several real processes that train one model, over gloo."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from maskrcnn_jax import checkpoints, distributed
from tests.train_process import finish, log_of, start, start_together

pytestmark = pytest.mark.slow

RUN = {"num_steps": 4, "batch_size": 4, "evaluate_every": 2, "save_every": 2, "data__shapes_num_val": 5}
# Until the others stop: connections of a process that dies break at once, one that is frozen falls silent.
SECONDS_AFTER_DEATH, SECONDS_AFTER_SILENCE = 30, distributed.HEARTBEAT_SECONDS + 30


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    result = finish(start(workdir, cache, **RUN))
    assert result.returncode == 0, result.stderr
    return workdir


def finish_all(processes):
    results = [finish(process) for process in processes]
    for result in results:
        assert result.returncode == 0, result.stderr
    return results


def assert_same_run(workdir, other):
    for ours, theirs in zip(log_of(workdir), log_of(other), strict=True):
        flat = jax.tree_util.tree_leaves_with_path(ours)
        for (path, x), y in zip(flat, jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-4, err_msg=f"{ours['step']} {path}")


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_and_evaluate_as_one(alone, cache, tmp_path, count):
    results = finish_all(start_together(count, tmp_path / "run", cache, **RUN))
    assert "step 4 of 4" in results[0].stdout
    assert not any("step" in result.stdout for result in results[1:])
    assert_same_run(tmp_path / "run", alone)
    assert (tmp_path / "run" / "predictions.png").exists()


def test_two_processes_evaluate_the_same_parameters_alike(alone, cache, tmp_path):
    shutil.copytree(alone, tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink()
    finish_all(start_together(2, tmp_path / "run", cache, **RUN))
    ours, theirs = (json.loads((path / "evaluation.json").read_text()) for path in (tmp_path / "run", alone))
    for kind in ("bbox", "segm", "losses"):
        assert ours[kind] == pytest.approx(theirs[kind], abs=1e-4)
    assert log_of(tmp_path / "run") == log_of(alone)


def test_a_run_goes_on_with_other_numbers_of_processes_and_devices(alone, cache, tmp_path):
    workdir = tmp_path / "run"
    finish_all(start_together(2, workdir, cache, **RUN | {"num_steps": 1, "evaluate_every": 0}))
    for step, devices in ((2, 4), (3, 2), (4, 1)):
        result = finish(start(workdir, cache, devices=devices, **RUN | {"num_steps": step, "evaluate_every": 0}))
        assert result.returncode == 0, result.stderr
    ours, theirs = checkpoints.load_run(workdir), checkpoints.load_run(alone)
    assert ours.step == theirs.step == 4
    begin = checkpoints.load_run(alone / "checkpoints" / "2")
    moves = zip(*(jax.tree.leaves(run.variables["params"]) for run in (begin, ours, theirs)), strict=True)
    for before, x, y in moves:
        assert np.linalg.norm(x - y) <= 1e-2 * np.linalg.norm(y - before) + 1e-7


def train_until_logged(processes, workdir, steps):
    while len(log_of(workdir)) < steps:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_sigterm_to_one_stops_all_at_the_same_step(cache, tmp_path):
    workdir = tmp_path / "run"
    processes = start_together(2, workdir, cache, **RUN | {"num_steps": 1000, "save_every": 0, "evaluate_every": 0})
    train_until_logged(processes, workdir, 2)
    processes[1].terminate()
    results = [finish(process) for process in processes]
    assert [result.returncode for result in results] == [distributed.EXIT_PREEMPTED] * 2, results[0].stderr
    stopped = log_of(workdir)[-1]["step"]
    assert f"SIGTERM: saved after step {stopped}" in results[0].stdout
    assert checkpoints.load_run(workdir).step == stopped


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    "harm, seconds", [(signal.SIGKILL, SECONDS_AFTER_DEATH), (signal.SIGSTOP, SECONDS_AFTER_SILENCE)]
)
def test_the_others_stop_when_one_dies_or_freezes(cache, tmp_path, victim, harm, seconds):
    workdir = tmp_path / "run"
    processes = start_together(2, workdir, cache, **RUN | {"num_steps": 1000, "save_every": 0, "evaluate_every": 0})
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
