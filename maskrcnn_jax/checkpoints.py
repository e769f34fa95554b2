"""Run directories: the resolved config, the categories, and Orbax checkpoints of the training state.

A run directory holds ``config.json``, ``categories.json``, ``metrics.jsonl`` and ``checkpoints/STEP/``. The variables
of the model and the state of the optimizer are separate items, so that evaluation and prediction read the former alone.
"""

import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from maskrcnn_jax import config_check, distributed, saved_states
from maskrcnn_jax.config import Config, OptimizerConfig, differences, from_dict, to_dict
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.training import TrainState


class Run(NamedTuple):
    """A trained model, as its run directory describes it."""

    config: Config
    categories: Categories
    variables: dict[str, Any]
    step: int


class Checkpoints:
    """Saves the state of a run in the background, keeps the newest few and the best, and restores the last good one.

    A save that was cut short leaves a temporary directory which is never taken for a checkpoint. Of several processes,
    all have to make the same calls.
    """

    def __init__(self, directory: str | Path, keep: int, keep_best: int = 0) -> None:
        """Opens the checkpoints of a run directory; see `rate` for what is the best."""
        self._scores: dict[int, float] = {}
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), _BestScored(keep_best, self._scores)]
            ),
            save_decision_policy=policies.AnySavePolicy([policies.FixedIntervalPolicy(1)]),
        )
        self._directory = Path(directory).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def rate(self, step: int, score: float) -> None:
        """Says how good the state after a step is; the larger the better."""
        self._scores[step] = score

    def save(self, state: TrainState) -> None:
        """Copies the state to the host and writes it in the background; nothing if this step was saved already.

        Raises:
            OSError: The save before this one failed, for lack of space, say.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {name: ocp.args.StandardSave(item) for name, item in saved_states.items(state).items()}
        with self._failure_named():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, state: TrainState) -> TrainState | None:
        """The last saved state that can be read, placed like the one given, or None if nothing was saved yet.

        Damaged checkpoints after it are set aside, as ``STEP.broken``, with a warning.

        Raises:
            ValueError: The checkpoint is of another model or optimizer, and the message names what differs; or all
                checkpoints are damaged.
            OSError: A checkpoint that may be whole could not be read, by one of the processes at least.
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
            raise ValueError(f"no checkpoint in {self._directory} can be read: {reasons}; use a new --workdir")
        return None

    def _steps_seen_by_all(self) -> list[int]:
        """Newest first."""
        seen = distributed.gather([sorted(self._manager.all_steps(), reverse=True)])
        if any(steps != seen[0] for steps in seen):
            raise OSError(f"processes see different checkpoints in {self._directory}: {seen}; all need one --workdir")
        return seen[0]

    def _read_by_all(self, step: int, state: TrainState) -> tuple[TrainState | None, str]:
        """The state of a step, or, if the files are damaged, None and how; all processes come to the same result."""
        path = self._directory / str(step)
        restored, verdict, reason = None, _WHOLE, ""
        try:
            restored = saved_states.read(path, state)
        except saved_states.DoesNotFit as error:
            verdict, reason = _UNFIT, str(error)
        except (ValueError, LookupError, OSError) as error:
            verdict, reason = _DAMAGED if saved_states.is_damage(error) else _OUT_OF_REACH, _first_line(error)

        verdicts, reasons = zip(*distributed.gather([[verdict, reason]]), strict=True)
        if _UNFIT in verdicts:
            raise ValueError(reasons[verdicts.index(_UNFIT)])
        if len(set(verdicts)) > 1 or _OUT_OF_REACH in verdicts:  # Files that one process can read are not damaged.
            told = "; ".join(f"process {i}: {reason}" for i, reason in enumerate(reasons) if reason)
            raise OSError(f"cannot read {path}, and leave it as it is, for it may be whole: {told}")
        return restored, reason

    def _set_aside(self, damaged: dict[int, str]) -> None:
        """Makes room for these steps, which are about to be taken again."""
        failures = []
        if distributed.is_first():
            for step, reason in damaged.items():
                path = self._directory / str(step)
                print(f"warning: cannot read {path}, going back to the one before: {reason}", file=sys.stderr)
                try:
                    path.rename(_free_name(path))
                except OSError as error:
                    failures.append(f"cannot set {path} aside: {error}")
        failures = distributed.gather(failures)
        if failures:
            raise OSError("; ".join(failures))
        self._manager.reload()

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        """Orbax raises what went wrong in the background at the next call, as whatever it was."""
        try:
            yield
        except Exception as error:
            raise OSError(f"cannot save a checkpoint in {self._directory}: {_first_line(error)}") from error

    def wait(self) -> None:
        """Returns when the last save is on disk. Raises OSError if it failed."""
        with self._failure_named():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the last save and stops the background threads. Raises OSError if the save failed."""
        with self._failure_named():
            self._manager.close()


# What a process finds when it reads a checkpoint.
_WHOLE, _UNFIT, _DAMAGED, _OUT_OF_REACH = "whole", "unfit", "damaged", "out of reach"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else repr(error)


def _free_name(path: Path) -> Path:
    """Beside a checkpoint, which is set aside for the first or for another time."""
    names = (path.with_name(f"{path.name}.broken{number}") for number in itertools.chain([""], itertools.count(2)))
    return next(name for name in names if not name.exists())


@dataclasses.dataclass
class _BestScored(ocp.checkpoint_managers.PreservationPolicy):
    """Preserves the steps with the highest scores. Orbax's own policy wants to know them when it saves."""

    count: int
    scores: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        scored = [info.step for info in checkpoints if info.step in self.scores]
        best = sorted(scored, key=lambda step: (self.scores[step], step), reverse=True)[: self.count]
        return [info.step in best for info in checkpoints]


def write_run(directory: str | Path, config: Config, categories: Categories) -> None:
    """Creates a run directory, or checks that an existing one holds the same model and categories.

    Of several processes the first writes, and the others, when it has, check that they are part of the same run.

    Raises:
        ValueError: The directory holds another model, or another kind of optimizer; the message lists the fields that
            differ.
        FileNotFoundError: The directory of the first process is not that of this one.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "config.json").exists():
        _check_same_run(directory, config, categories)
    elif not distributed.is_first():
        path = directory / "config.json"
        raise FileNotFoundError(f"{path}, which process 0 wrote, is not here: all processes need one --workdir")
    if distributed.is_first():
        _write_json(directory / "categories.json", categories.to_json())
        _write_json(directory / "config.json", to_dict(config))  # Last: it makes the directory that of a run.


def _check_same_run(directory: Path, config: Config, categories: Categories) -> None:
    previous_config, previous_categories = read_settings(directory)
    changed = differences(_shape_of_state(previous_config), _shape_of_state(config))
    if previous_categories != categories:
        changed.append("the categories of the data set")
    if changed:
        raise ValueError(
            f"{directory} holds a run of another model, use a new --workdir; changed: {'; '.join(changed)}"
        )


def _shape_of_state(config: Config) -> Config:
    """Only the fields that the contents of a checkpoint depend on, which a run cannot change."""
    average = None if config.optimizer.average_decay is None else 0.0  # Any decay is as good as another.
    return Config(model=config.model, optimizer=OptimizerConfig(name=config.optimizer.name, average_decay=average))


def load_run(directory: str | Path) -> Run:
    """Reads a checkpoint of a run, onto one device, for evaluation or prediction.

    Args:
        directory: Of the run, for its last checkpoint; or of one checkpoint, ``RUN/checkpoints/STEP``.

    Raises:
        FileNotFoundError: No run directory, or one without such a checkpoint.
        ValueError: A file in it is broken; the message names it.
    """
    directory, chosen = _split_step(Path(directory))
    config, categories = read_settings(directory)
    with ocp.CheckpointManager(directory.absolute() / "checkpoints") as manager:
        if chosen is not None and chosen not in manager.all_steps():
            raise FileNotFoundError(
                f"{directory} has no checkpoint of step {chosen}, but {sorted(manager.all_steps())}"
            )
        step = manager.latest_step() if chosen is None else chosen
        if step is None:
            raise FileNotFoundError(f"{directory} has no finished checkpoint yet")
        model = MaskRCNN(config.model)
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8")
        variables = jax.eval_shape(model.init, jax.random.key(0), images, jax.ShapeDtypeStruct((1, 2), "int32"))
        variables = {"constants": {}, "batch_stats": {}} | dict(variables)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), variables)
        restored = manager.restore(step, args=ocp.args.Composite(variables=ocp.args.StandardRestore(target)))
    return Run(config, categories, restored.variables, step)


def _split_step(directory: Path) -> tuple[Path, int | None]:
    if directory.absolute().parent.name == "checkpoints" and directory.name.isdigit():
        return directory.absolute().parent.parent, int(directory.name)
    return directory, None


def read_settings(directory: Path) -> tuple[Config, Categories]:
    """The experiment of a run directory, and what its labels stand for.

    Raises:
        FileNotFoundError: It is not a run directory.
        ValueError: Its files are broken.
    """
    if not (directory / "config.json").exists():
        raise FileNotFoundError(f"{directory} is not a run directory: it has no config.json")
    config, categories = (_read_json(directory / f"{name}.json") for name in ("config", "categories"))
    try:
        config = from_dict(Config, config)
        config_check.check(config)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from error
    try:
        return config, Categories.from_json(categories)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory / 'categories.json'} holds no categories: {error!r}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path.parent} is not a whole run directory: it has no {path.name}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _write_json(path: Path, value: Any) -> None:
    """Writes beside the file and renames, so that a killed run leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)
