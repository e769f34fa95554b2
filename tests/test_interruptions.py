"""An interrupted run resumes, and ends with the same bits as an uninterrupted run."""

import json
import os
import random
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import distributed
from maskrcnn_jax.data import coco_instances, shapes
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.runs import run_directory
from tests.train_process import finish, log_of, start

pytestmark = pytest.mark.slow

# The log has entries at steps 2, 3, 4, 6 and 7: checkpoints and evaluations add to those of
# `log_every`.
RUN = {
    "num_steps": 7,
    "log_every": 2,
    "save_every": 3,
    "evaluate_every": 4,
    "keep_best": 1,
    "keep_checkpoints": 2,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """The uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    result = finish(start(workdir, cache, **RUN))
    assert result.returncode == 0, result.stderr
    assert [(entry["step"], "segm" in entry) for entry in log_of(workdir)] == [
        (2, False),
        (3, False),
        (4, False),
        (4, True),
        (6, False),
        (7, False),
        (7, True),
    ]
    return workdir


def assert_same_results(workdir: Path, whole: Path) -> None:
    ours, theirs = run_directory.load_run(workdir), run_directory.load_run(whole)
    assert ours.step == theirs.step == 7
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    for name in ("evaluation.json", "detections.json"):
        assert (workdir / name).read_text() == (whole / name).read_text(), name


def assert_same_end(workdir: Path, whole: Path) -> None:
    """Checks the results, and that the log has each step once."""
    assert_same_results(workdir, whole)
    assert log_of(workdir) == log_of(whole)


def wait_for(condition, process) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.01)


def kill_when_saved(step: int, workdir: Path, cache: Path, **overrides) -> int:
    """Starts the run, and kills it when a step is saved; returns the newest saved step."""
    process = start(workdir, cache, **RUN | overrides)
    wait_for((workdir / "checkpoints" / str(step)).is_dir, process)
    process.kill()
    assert finish(process).returncode == -signal.SIGKILL
    return run_directory.load_run(workdir).step


def test_the_same_command_twice_gives_the_same_bits(whole, cache, tmp_path):
    assert finish(start(tmp_path / "run", cache, **RUN)).returncode == 0
    assert_same_end(tmp_path / "run", whole)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment(whole, cache, tmp_path, seed):
    moments = random.Random(seed)
    workdir, killed = tmp_path / "run", 0
    for _ in range(6):
        process = start(workdir, cache, **RUN)
        lines = len(log_of(workdir)) + moments.randrange(3)
        wait_for(lambda lines=lines: len(log_of(workdir)) >= lines, process)
        time.sleep(moments.uniform(0, 1))
        process.kill()
        finish(process)
        killed += process.returncode == -signal.SIGKILL
        if killed == 3:
            break
    result = finish(start(workdir, cache, **RUN))
    assert result.returncode == 0 and killed == 3, result.stderr
    assert_same_end(workdir, whole)


def write_shapes(folder: Path, seed: int) -> tuple[str, str]:
    """Writes eight images with their json; returns the folder and the json."""
    folder.mkdir()
    dataset = shapes.ShapesDataset(8, 64, seed)
    content = dataset.annotations()
    for i, entry in enumerate(content["images"]):
        entry["file_name"] = f"{i}.png"
        Image.fromarray(dataset[i].image).save(folder / entry["file_name"])
    (folder / "a.json").write_text(json.dumps(content))
    return str(folder), str(folder / "a.json")


def test_two_weighted_sets_killed_in_between(cache, tmp_path):
    """One set is COCO json, the other prepared records; both take part on both sides."""
    first, second = (write_shapes(tmp_path / name, seed) for seed, name in enumerate("ab"))
    source = CocoDataset(*second, keep_empty=True)
    coco_instances.prepare(source, "train", tmp_path / "records", lambda count: None)
    sets = {
        "data__source": "coco",
        "data__train": f"{((*first, 1.0), (str(tmp_path / 'records'), '', 3.0))}",
        "data__val_images": first[0],
        "data__val_annotations": first[1],
        "data__copy_paste": 0.5,
        "data__quarter_turn": 0.5,
    }
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    result = finish(start(whole, cache, **RUN | sets))
    assert result.returncode == 0, result.stderr
    assert any(entry.get("removed_instances") for entry in log_of(whole))
    saved = kill_when_saved(3, workdir, cache, **sets)
    assert saved < RUN["num_steps"]
    result = finish(start(workdir, cache, **RUN | sets))
    assert result.returncode == 0, result.stderr
    assert_same_end(workdir, whole)


@pytest.mark.parametrize("lines", [1, 3], ids=["in training", "in an evaluation"])
def test_sigterm_saves_and_says_so(whole, cache, tmp_path, lines):
    workdir = tmp_path / "run"
    process = start(workdir, cache, **RUN)
    wait_for(lambda: len(log_of(workdir)) >= lines, process)
    process.terminate()
    result = finish(process)
    assert result.returncode == distributed.EXIT_PREEMPTED == 143, result.stderr
    assert "SIGTERM: saved after step" in result.stdout
    stopped = log_of(workdir)[-1]["step"]
    assert (
        f"after step {stopped}" in result.stdout and run_directory.load_run(workdir).step == stopped
    )
    result = finish(start(workdir, cache, **RUN))
    assert result.returncode == 0, result.stderr
    assert_same_results(workdir, whole)
    entries = [(entry["step"], "segm" in entry) for entry in log_of(workdir)]
    assert entries == sorted(set(entries))
    assert log_of(workdir)[-1] == log_of(whole)[-1]


@pytest.mark.parametrize("seed", range(2))
def test_no_space_left_for_a_checkpoint(whole, cache, tmp_path, seed):
    workdir = tmp_path / "run"
    saved = kill_when_saved(random.Random(seed).choice([3, 4, 6]), workdir, cache)
    result = finish(start(workdir, cache, largest_file=1000, **RUN))
    assert result.returncode == 2, result.stdout
    # Orbax's own message follows.
    message = f"train.py: cannot save a checkpoint in {workdir / 'checkpoints'}: "
    assert any(line.startswith(message) for line in result.stderr.splitlines()), result.stderr
    assert "File too large" in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert run_directory.load_run(workdir).step == saved
    result = finish(start(workdir, cache, **RUN))
    assert result.returncode == 0, result.stderr
    assert_same_end(workdir, whole)


@pytest.mark.parametrize("seed", range(2))
def test_a_checkpoint_that_was_written_by_half(whole, cache, tmp_path, seed):
    workdir = tmp_path / "run"
    saved = kill_when_saved(random.Random(seed).choice([4, 6]), workdir, cache)
    for data in (workdir / "checkpoints" / str(saved) / "training").glob("**/d/*"):
        os.truncate(data, data.stat().st_size // 2)
    result = finish(start(workdir, cache, **RUN))
    assert result.returncode == 0 and "going back to the one before" in result.stderr, result.stderr
    assert (workdir / "checkpoints" / f"{saved}.broken").is_dir()
    assert_same_end(workdir, whole)
