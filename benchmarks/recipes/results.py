"""The file of results, with one entry for each run, and the difference of the programs."""

import datetime
import json
import math
import statistics
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.recipes import settings
from maskrcnn_jax import whole_files
from maskrcnn_jax.evaluation import Evaluation

FILE = Path(__file__).parents[2] / "docs" / "results.json"
NUMBERS = ("AP", "AP50", "AP75")
# The 97.5 % quantile of Student's t by degrees of freedom: a table of any textbook.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of the file; empty without a file."""
    return json.loads(path.read_text()) if path.exists() else []


def find(entries: list[dict[str, Any]], recipe: str, program: str, seed: int) -> dict | None:
    """The entry of a run, or None."""
    key = recipe, program, seed
    own = [x for x in entries if (x["recipe"], x["program"], x["seed"]) == key]
    return own[-1] if own else None


def add(path: Path, entry: dict[str, Any]) -> None:
    """Adds an entry at the end of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_files.write_text(path, json.dumps([*read(path), entry], indent=1) + "\n")


def entry(
    recipe: str, program: str, seed: int, steps: int, result: Evaluation, workdir: Path
) -> dict[str, Any]:
    """The record of a run: its numbers, its curve, its time, the machine and the code."""
    numbers = {kind: {name: x[name] for name in NUMBERS} for kind, x in result.numbers.items()}
    return {
        "recipe": recipe,
        "program": program,
        "seed": seed,
        "steps": steps,
        **numbers,
        "minutes": minutes(workdir),
        "curve": curve(workdir / "metrics.jsonl"),
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "machine": machine.describe(),
    }


def minutes(workdir: Path) -> float | None:
    """The wall time of all sessions of a run; None if a session was killed before it could tell."""
    path = workdir / "sessions.jsonl"
    sessions = [json.loads(line) for line in path.read_text().splitlines()]
    begun, ended = (sum(name in x for x in sessions) for name in ("begun", "seconds"))
    if begun != ended:
        return None
    return round(sum(x.get("seconds", 0) for x in sessions) / 60, 1)


def curve(log: Path) -> dict[str, list[float]]:
    """The mean loss between two entries of the log, by the step of the second."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    own = [x for x in entries if "loss" in x]
    return {"step": [x["step"] for x in own], "loss": [round(x["loss"], 4) for x in own]}


def _commit() -> str:
    """The commit of the code, with a mark if files were changed; empty without git."""
    folder = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


class Difference(NamedTuple):
    """The mean over seeds of our mask AP minus torchvision's, and its 95 % interval."""

    mean: float
    low: float
    high: float
    num_seeds: int

    @property
    def passed(self) -> bool:
        """Whether ours is not worse: by at most 0.005, or within the interval."""
        return self.mean >= -0.005 or self.low <= 0 <= self.high


def difference(entries: list[dict[str, Any]]) -> Difference | None:
    """Compares the programs by the seeds that both have; None for fewer than two of these.

    The runs of a seed have the same start and the same images, so their differences count.
    """
    by_program: dict[str, dict[int, float]] = {"ours": {}, "torchvision": {}}
    for x in entries:
        if x["recipe"] == settings.COMPARISON:
            by_program[x["program"]][x["seed"]] = x["segm"]["AP"]
    ours, theirs = by_program["ours"], by_program["torchvision"]
    values = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not 1 < len(values) <= 1 + max(STUDENT):
        return None
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    half = STUDENT[len(values) - 1] * deviation / math.sqrt(len(values))
    return Difference(mean, mean - half, mean + half, len(values))
