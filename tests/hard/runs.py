"""Starts a small run, waits for its end, and compares it with a run that was never stopped.

Every command must end with a documented exit code and without a traceback.
"""

import signal
import time
from pathlib import Path

import jax
import numpy as np

from maskrcnn_jax.runs import events, run_directory
from tests import train_process
from tests.train_process import log_of

# A step takes about 20 ms of one core, so that most of a run is saves, evaluations and starts.
TINY = {
    "batch_size": 1,
    "test_batch_size": 1,
    "data__shapes_num_val": 2,
    "data__num_threads": 2,
    "model__box_head__features": 16,
    "model__mask_head__channels": 8,
    "model__rpn__num_candidates": 40,
    "model__rpn__num_proposals": 20,
    "detection__num_candidates": 40,
    "detection__num_proposals": 20,
    "detection__num_detections": 10,
}
# Entries of the log, checkpoints and evaluations meet in all combinations.
RUN = TINY | {
    "num_steps": 24,
    "log_every": 3,
    "save_every": 2,
    "evaluate_every": 4,
    "keep_best": 1,
    "keep_checkpoints": 2,
}
EXIT_CODES = (0, 1, 2, 130, 143)


def start(workdir: Path, folder: Path, **options):
    """Starts a run; all share the cache of compiled programs in ``folder``."""
    return train_process.start(workdir, folder / "cache", **RUN | options)


def finish(process, code: int | None = 0):
    """Waits for a process and checks how it ended; ``code`` None allows every documented code."""
    result = train_process.finish(process)
    told = f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert result.returncode in (EXIT_CODES if code is None else (code,)), told
    assert "Traceback" not in result.stderr + result.stdout, told
    return result


def kill(process) -> bool:
    """Kills a process; returns whether it was still alive."""
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def wait_for(condition, process, seconds: float = 300) -> None:
    """Waits until a condition holds or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, f"nothing happened in {seconds} seconds"
        time.sleep(0.002)


def whole(folder: Path) -> Path:
    """The run that was never stopped; it is made once."""
    workdir = folder / "never-stopped"
    if not (workdir / "report.html").exists():
        finish(start(workdir, folder))
    return workdir


def newest(workdir: Path) -> int:
    """The newest finished checkpoint, by its name; 0 if there is none."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def assert_not_lost(workdir: Path, saved: int) -> None:
    """Checks that the newest checkpoint is at least that of a step, and can be read."""
    if saved:
        assert run_directory.load_run(workdir).step >= saved


def assert_same_end(workdir: Path, expected: Path, *, log: bool = True) -> None:
    """Checks that two runs ended with the same bits, and that each step was logged once."""
    ours, theirs = run_directory.load_run(workdir), run_directory.load_run(expected)
    assert ours.step == theirs.step
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    for name in ("evaluation.json", "detections.json"):
        assert (workdir / name).read_text() == (expected / name).read_text(), name
    assert not list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    entries = [(entry["step"], "bbox" in entry) for entry in log_of(workdir)]
    assert entries == sorted(set(entries)), entries
    if log:
        assert log_of(workdir) == log_of(expected)
        assert event_values(workdir) == event_values(expected)


def event_values(workdir: Path) -> list[tuple[int, str]]:
    """Step and tag of every value that TensorBoard would show."""
    found = []
    for path in workdir.glob("*.tfevents.*"):
        for event, _ in events.read(path):
            found += [(event.step, value.tag) for value in event.summary.value]
    assert len(found) == len(set(found))
    return sorted(found)
