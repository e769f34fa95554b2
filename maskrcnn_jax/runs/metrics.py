"""The log of a run as JSON lines and for TensorBoard. A non-finite loss ends the run."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskrcnn_jax import whole_files
from maskrcnn_jax.evaluation import main_ap
from maskrcnn_jax.runs.events import EventFile


class MetricsLog:
    """Averages metrics between entries, and appends them to a file and to TensorBoard's files.

    Metrics are read one step late, so that the device never waits for the host. When a run resumes,
    the log drops the entries of later steps, because the run takes these steps again.

    Attributes:
        ap: The `evaluation.main_ap` of each evaluated step in the file.
    """

    def __init__(self, path: str | Path, start: int, *, writes: bool = True) -> None:
        """Opens the log of a run.

        Args:
            path: The JSON lines file, beside which TensorBoard's files go.
            start: The number of steps that the run has taken.
            writes: Whether this process writes; one process does.

        Raises:
            ValueError: A line before the last one is not an entry; the message names the line.
        """
        path = Path(path)
        entries = [entry for entry in _read_entries(path) if entry["step"] <= start]
        self.ap = {entry["step"]: main_ap(entry) for entry in entries if "bbox" in entry}
        self._file, self._events = None, None
        if writes:
            lines = (json.dumps(entry) + "\n" for entry in entries)
            whole_files.write_text(path, "".join(lines))
            self._file = path.open("a", encoding="utf-8")
            self._events = EventFile(path.parent, start)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._sums: dict[str, float] = {}
        self._num_steps = 0
        self._since = time.perf_counter()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Stores the metrics of a step that may still run, and reads those of the step before."""
        previous, self._pending = self._pending, (step, metrics)
        self._read(previous)

    def settle(self) -> None:
        """Reads the pending metrics. Raises FloatingPointError if a loss is not finite."""
        previous, self._pending = self._pending, None
        self._read(previous)

    @property
    def is_empty(self) -> bool:
        """Whether no step was added since the last entry."""
        return self._pending is None and self._num_steps == 0

    def flush(self, step: int, batch_size: int, **values: float) -> dict[str, float]:
        """Writes and returns the means since the last entry, the speed and the given values."""
        self.settle()
        seconds = time.perf_counter() - self._since
        means = {name: total / self._num_steps for name, total in sorted(self._sums.items())}
        means |= {"images_per_second": self._num_steps * batch_size / seconds} | values
        self._sums, self._num_steps = {}, 0
        self.write(step, means)
        return means

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends one entry, and restarts the clock for images per second.

        Raises OSError if that fails.
        """
        if self._file is not None:
            with whole_files.naming(self._file.name):
                self._file.write(json.dumps({"step": step} | values) + "\n")
                self._file.flush()
            self._events.scalars(step, values)
        self._since = time.perf_counter()

    def write_evaluation(
        self, step: int, values: dict[str, Any], draw: Callable[[], dict[str, np.ndarray]] = dict
    ) -> None:
        """Appends the numbers of an evaluation, unless the log has that evaluation already.

        Args:
            step: The number of steps taken before the evaluation.
            values: The numbers by kind: "bbox", "segm" if there are masks, and others.
            draw: Makes uint8 RGB images for TensorBoard, by name. Only the writing process calls
                this function.
        """
        if step in self.ap:
            return
        self.ap[step] = main_ap(values)
        if self._events is not None:
            self._events.images(step, draw())
        self.write(step, values)

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # `write` has flushed every entry, or raised.
                self._file.close()
            self._events.close()

    def _read(self, entry: tuple[int, dict[str, jax.Array]] | None) -> None:
        if entry is None:
            return
        step, on_device = entry
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        check_finite(step, metrics)
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._num_steps += 1


def _read_entries(path: Path) -> list[dict[str, Any]]:
    """Reads the entries of a log. A killed run may leave half a last line, which is skipped."""
    lines = path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(_parse(line))
        except ValueError as error:
            if number < len(lines):
                message = f"{path}, line {number}: {error}; without this line the run can go on"
                raise ValueError(message) from error
    return entries


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        expected = 'an object with a whole number as its "step"'
        raise ValueError(f"an entry must be {expected}, got {line[:60]!r}")
    return entry


def check_finite(step: int, metrics: dict[str, float]) -> None:
    """Raises FloatingPointError with all losses if a loss or the gradient norm is not finite."""
    checked = {
        name: value
        for name, value in metrics.items()
        if name.startswith("loss") or name == "gradient_norm"
    }
    if not all(map(math.isfinite, checked.values())):
        listed = ", ".join(f"{name} {value:.4g}" for name, value in sorted(checked.items()))
        raise FloatingPointError(
            f"step {step} is not finite: {listed}. A lower config.optimizer.learning_rate, a "
            "longer warmup_steps or a max_gradient_norm usually helps. The last checkpoint is "
            "still good"
        )
