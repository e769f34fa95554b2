"""10,000 steps: memory stays flat, nothing is compiled again, no file or thread is left over."""

import json
import os
import statistics
import time
from pathlib import Path

from maskrcnn_jax.runs import events
from tests import train_process
from tests.hard.runs import TINY

NUM_STEPS = 10_000
WARM_UP = 0.4  # The share of the steps in which the first saves fill the pools of the allocator.
MAX_GROWTH = 0.02
RUN = TINY | {"num_steps": NUM_STEPS, "log_every": 50, "save_every": 500, "evaluate_every": 1000}


def sample(pid: int, output: Path) -> dict[str, float]:
    """Resident memory in MiB, open files, threads, and the programs compiled so far."""
    process = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(os.listdir(process / "fd")),
        "threads": int(status["Threads"]),
        "compiled": output.read_text(errors="replace").count("Compiling "),
    }


def read_log(workdir: Path) -> int:
    """The newest step in the log; every finished line and every event can be read."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    steps = [json.loads(line)["step"] for line in lines]
    for path in workdir.glob("*.tfevents.*"):
        last = [event.step for event, _ in events.read(path) if event.summary.value]
        assert not last or last[-1] <= steps[-1] + 50
    return steps[-1] if steps else 0


def watched(own: Path, folder: Path) -> str:
    """Runs, looks at the process every two seconds, and compares the windows after warm-up."""
    workdir, output = own / "run", own / "output"
    os.environ["JAX_LOG_COMPILES"] = "1"
    try:
        with output.open("w") as file:
            options = RUN | {"output": file, "optimised": True}
            process = train_process.start(workdir, folder / "cache", **options)
            found = []
            while process.poll() is None:
                try:
                    found.append((read_log(workdir), sample(process.pid, output)))
                except (FileNotFoundError, ProcessLookupError, KeyError):
                    pass  # It has just ended.
                time.sleep(2)
    finally:
        del os.environ["JAX_LOG_COMPILES"]
    (folder / "long_run.json").write_text(json.dumps(found))
    assert process.returncode == 0, output.read_text()[-3000:]
    return compare(found)


def compare(found: list[tuple[int, dict[str, float]]]) -> str:
    """Compares a window after warm-up with the last one."""
    windows = [(WARM_UP, WARM_UP + 0.2), (0.8, 1.0)]
    early, late = (
        [x for step, x in found if low * NUM_STEPS < step < high * NUM_STEPS]
        for low, high in windows
    )
    before, after = (
        {name: statistics.median(x[name] for x in window) for name in early[0]}
        for window in (early, late)
    )
    told = f"{len(found)} looks; medians after warm-up {before}, at the end {after}"
    assert after["memory"] <= before["memory"] * (1 + MAX_GROWTH), told
    assert after["compiled"] == before["compiled"] > 0, told
    for name in ("files", "threads"):
        assert after[name] <= before[name], told
    return told


CASES = {"long run": watched}
