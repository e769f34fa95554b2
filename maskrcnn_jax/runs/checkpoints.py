"""Orbax checkpoints of the training state.

The variables of the model and the state of the optimizer are separate items, so that evaluation and
prediction read only the variables.
"""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from logging import Filter, LogRecord
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from absl import logging

from maskrcnn_jax import distributed
from maskrcnn_jax.runs import saved_states
from maskrcnn_jax.runs.plain_path import PlainPath
from maskrcnn_jax.training import TrainState

# Seconds. Orbax asks the clock, which jumps by hours when a laptop wakes up, and by decades when a
# machine without a battery learns the time.
_LONGEST_SAVE = 2**31


class NotSaved(OSError):
    """A checkpoint could not be written, or cannot be read back."""


class Checkpoints:
    """Saves the states of a run in the background, and restores the last readable one.

    The newest checkpoints and the best ones are kept. An interrupted save leaves a temporary
    directory, which no reader takes for a checkpoint; the next start removes it. All processes must
    make the same calls.

    The first checkpoint that is saved is read back at once. The later ones are checked when they
    are on disk, by their lists of arrays and the sizes of their files.
    """

    def __init__(self, directory: str | Path, keep: int, keep_best: int = 0) -> None:
        """Opens the checkpoints of a run directory.

        Args:
            directory: The run directory.
            keep: The number of newest checkpoints to keep.
            keep_best: The number of checkpoints to keep besides, by the scores of `rate`.
        """
        self._scores: dict[int, float] = {}
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), _BestScored(keep_best, self._scores)]
            ),
            save_decision_policy=policies.AnySavePolicy([policies.FixedIntervalPolicy(1)]),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(timeout_secs=_LONGEST_SAVE),
        )
        Path(directory).mkdir(parents=True, exist_ok=True)  # A link needs it.
        self._plain = PlainPath(Path(directory))
        self._directory = self._plain.path / "checkpoints"
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        self._failures = _Failures()
        logging.get_absl_logger().addFilter(self._failures)
        self._unchecked: tuple[int, TrainState] | None = None
        self._has_read_back = False

    def rate(self, step: int, score: float) -> None:
        """Sets the score of the checkpoint of a step; larger is better."""
        self._scores[step] = score

    def save(self, state: TrainState) -> None:
        """Copies the state to the host and writes it in the background, unless it is saved already.

        Raises:
            NotSaved: The previous save failed, for lack of disk space, for example; or a saved
                checkpoint cannot be read back.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self.wait()
        items = saved_states.items(state)
        items = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        with self._failure_named():
            self._manager.save(step, args=ocp.args.Composite(**items))
        # The next step donates the arrays of the state, so only their shapes are kept.
        self._unchecked = step, saved_states.abstract(state)
        if not self._has_read_back:
            self.wait()

    def restore(self, state: TrainState) -> TrainState | None:
        """Reads the newest readable state; returns None if the run has no checkpoint.

        The arrays get the shardings of the given state. Newer checkpoints, which are damaged, are
        renamed to ``STEP.broken``, with a warning.

        Raises:
            ValueError: The checkpoint has another model or optimizer, and the message names the
                differences; or all checkpoints are damaged.
            OSError: Some process could not read a checkpoint that may be intact.
        """
        self.wait()
        damaged: dict[int, str] = {}
        for step in self._steps_seen_by_all():
            restored, damage = self._read_by_all(step, state)
            if restored is not None:
                if damaged:
                    self._set_aside(damaged)
                return restored
            damaged[step] = damage
        if damaged:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            folder = self._plain.named(str(self._directory))
            raise ValueError(
                f"no checkpoint in {folder} can be read: {reasons}; use a new --workdir"
            )
        return None

    def _steps_seen_by_all(self) -> list[int]:
        """The saved steps, newest first. Raises OSError if the processes see different ones."""
        seen = distributed.gather([sorted(self._manager.all_steps(), reverse=True)])
        if any(steps != seen[0] for steps in seen):
            folder = self._plain.named(str(self._directory))
            raise OSError(
                f"processes see different checkpoints in {folder}: {seen}; all need one --workdir"
            )
        return seen[0]

    def _read_by_all(self, step: int, state: TrainState) -> tuple[TrainState | None, str]:
        """The state of a step, or None and the damage; the same in all processes."""
        path = self._directory / str(step)
        restored, verdict, reason = None, _WHOLE, ""
        try:
            restored = saved_states.read(path, state)
        except saved_states.DoesNotFit as error:
            verdict, reason = _UNFIT, self._plain.named(str(error))
        except (ValueError, LookupError, OSError) as error:
            verdict = _DAMAGED if saved_states.is_damage(error) else _OUT_OF_REACH
            reason = self._plain.named(saved_states.first_line(error))

        verdicts, reasons = zip(*distributed.gather([[verdict, reason]]), strict=True)
        if _UNFIT in verdicts:
            raise ValueError(reasons[verdicts.index(_UNFIT)])
        # If any process can read the files, they are not damaged.
        if len(set(verdicts)) > 1 or _OUT_OF_REACH in verdicts:
            told = "; ".join(f"process {i}: {reason}" for i, reason in enumerate(reasons) if reason)
            named = self._plain.named(str(path))
            raise OSError(
                f"cannot read {named}, and leave it as it is, for it may be whole: {told}"
            )
        return restored, reason

    def _set_aside(self, damaged: dict[int, str]) -> None:
        """Renames damaged checkpoints, because the run takes these steps again."""
        failures = []
        if distributed.is_first():
            for step, reason in damaged.items():
                path = self._directory / str(step)
                named = self._plain.named(str(path))
                warning = f"warning: cannot read {named}, going back to the one before: {reason}"
                print(warning, file=sys.stderr)
                try:
                    path.rename(_free_name(path))
                except OSError as error:
                    failures.append(f"cannot set {named} aside: {error}")
        failures = distributed.gather(failures)
        if failures:
            raise OSError("; ".join(failures))
        self._manager.reload()

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        """Turns errors of a background save, which Orbax raises at its next call, to `NotSaved`."""
        try:
            yield
        except Exception as error:
            errors = [error, *self._failures.found[:1]]
            reasons = dict.fromkeys(map(saved_states.first_line, errors))
            text = f"{self._directory}: {'; '.join(reasons)}"
            raise NotSaved(f"cannot save a checkpoint in {self._plain.named(text)}") from error

    def wait(self) -> None:
        """Waits until the last save is on disk, and checks it.

        Raises NotSaved if the save failed, or if what was saved cannot be read back.
        """
        with self._failure_named():
            self._manager.wait_until_finished()
            self._check_last()

    def _check_last(self) -> None:
        """Checks the last saved checkpoint: the first one whole, the others by their metadata."""
        if self._unchecked is None:
            return
        (step, state), self._unchecked = self._unchecked, None
        path = self._directory / str(step)
        if self._has_read_back:
            saved_states.check(path, state)
        else:
            saved_states.read_back(path, state)
            self._has_read_back = True

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Closes. A save that fails does not replace the error that led here."""
        with contextlib.suppress(*[NotSaved] if error is not None else []):
            self.close()

    def close(self) -> None:
        """Finishes and checks the last save, and stops Orbax's threads.

        Raises NotSaved if the save failed.
        """
        try:
            self.wait()
        finally:
            with self._failure_named():
                self._manager.close()
            logging.get_absl_logger().removeFilter(self._failures)
            self._plain.close()


class _Failures(Filter):
    """Takes the errors that Orbax's threads log with a traceback.

    Of a save that fails, Orbax may raise a consequence only, such as a file that is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[BaseException] = []

    def filter(self, record: LogRecord) -> bool:
        """Keeps the error of a record, and drops the record; other records pass."""
        if not (record.exc_info and record.exc_info[1]):
            return True
        self.found.append(record.exc_info[1])
        return False


# One process's verdict on a checkpoint.
_WHOLE, _UNFIT, _DAMAGED, _OUT_OF_REACH = "whole", "unfit", "damaged", "out of reach"


def _free_name(path: Path) -> Path:
    """The first free name for a damaged checkpoint; a step may be damaged several times."""
    numbers = itertools.chain([""], itertools.count(2))
    names = (path.with_name(f"{path.name}.broken{number}") for number in numbers)
    return next(name for name in names if not name.exists())


@dataclasses.dataclass
class _BestScored(ocp.checkpoint_managers.PreservationPolicy):
    """Preserves the steps with the highest scores. Orbax's own policy needs scores at the save."""

    count: int
    scores: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        scored = [info.step for info in checkpoints if info.step in self.scores]
        ranked = sorted(scored, key=lambda step: (self.scores[step], step), reverse=True)
        best = ranked[: self.count]
        return [info.step in best for info in checkpoints]
