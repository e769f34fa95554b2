"""The log of a run: one line of JSON per entry, the same for TensorBoard, and a stop when a loss is not finite."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskrcnn_jax.events import EventFile


class MetricsLog:
    """Averages metrics over some steps and appends them to a file, and to TensorBoard's files beside it.

    Metrics are read one step late, so that the device is never kept waiting for the host. When a run resumes, what the
    file says of later steps is dropped: those steps are about to be taken again.

    Attributes:
        mask_ap: Of each step with an evaluation in the file.
    """

    def __init__(self, path: str | Path, start: int, *, writes: bool = True) -> None:
        """Opens the log of a run that has taken ``start`` steps; of several processes, one ``writes``.

        Raises:
            ValueError: A line of the file that is not the last is no entry; the message says which.
        """
        path = Path(path)
        entries = [entry for entry in _read_entries(path) if entry["step"] <= start]
        self.mask_ap: dict[int, float] = {entry["step"]: entry["segm"]["AP"] for entry in entries if "segm" in entry}
        self._file, self._events = None, None
        if writes:
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
            temporary.replace(path)
            self._file = path.open("a")
            self._events = EventFile(path.parent, start)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._sums: dict[str, float] = {}
        self._num_steps = 0
        self._since = time.perf_counter()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that may still be running, and reads those of the step before."""
        previous, self._pending = self._pending, (step, metrics)
        self._read(previous)

    def settle(self) -> None:
        """Reads what is still pending. Raises FloatingPointError, as `add` does, if a loss is not finite."""
        previous, self._pending = self._pending, None
        self._read(previous)

    def flush(self, step: int, batch_size: int, **values: float) -> dict[str, float]:
        """Writes and returns the means since the last entry, images per second, and the values given."""
        self.settle()
        seconds = time.perf_counter() - self._since
        means = {name: total / self._num_steps for name, total in sorted(self._sums.items())}
        means |= {"images_per_second": self._num_steps * batch_size / seconds} | values
        self._sums, self._num_steps = {}, 0
        self.write(step, means)
        return means

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends one entry, and starts the clock of the next."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step} | values) + "\n")
            self._file.flush()
            self._events.scalars(step, values)
        self._since = time.perf_counter()

    def write_evaluation(
        self, step: int, values: dict[str, Any], draw: Callable[[], dict[str, np.ndarray]] = dict
    ) -> None:
        """Appends the numbers of an evaluation, unless they are there: they come out the same every time.

        Args:
            draw: makes pictures for TensorBoard, RGB and uint8, by name; called only where they are written.
        """
        if step in self.mask_ap:
            return
        self.mask_ap[step] = values["segm"]["AP"]
        if self._events is not None:
            self._events.pictures(step, draw())
        self.write(step, values)

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
            self._events.close()

    def _read(self, entry: tuple[int, dict[str, jax.Array]] | None) -> None:
        if entry is None:
            return
        step, metrics = entry[0], {name: float(value) for name, value in jax.device_get(entry[1]).items()}
        check_finite(step, metrics)
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._num_steps += 1


def _read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a log, without what a run that was cut off left of its last line."""
    lines = path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(_parse(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: {error}; without this line the run can go on") from error
    return entries


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        raise ValueError(f'an entry must be an object with a whole number as its "step", got {line[:60]!r}')
    return entry


def check_finite(step: int, metrics: dict[str, float]) -> None:
    """Raises FloatingPointError that names the losses of a step if one, or the gradient, is not finite."""
    watched = {name: value for name, value in metrics.items() if name.startswith("loss") or name == "gradient_norm"}
    if not all(map(math.isfinite, watched.values())):
        listed = ", ".join(f"{name} {value:.4g}" for name, value in sorted(watched.items()))
        raise FloatingPointError(
            f"step {step} is not finite: {listed}. A lower config.optimizer.learning_rate, a longer warmup_steps or "
            "a max_gradient_norm usually helps. The last checkpoint is still good"
        )
