"""Run directories: the config, the categories, and Orbax checkpoints of the training state.

A run directory holds ``config.json``, ``categories.json``, ``metrics.jsonl`` and
``checkpoints/STEP/``. The variables of the model and the state of the optimizer are separate items,
so that evaluation and prediction read only the variables.
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

from maskrcnn_jax import config_check, distributed
from maskrcnn_jax.config import Config, ModelConfig, OptimizerConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model import MaskRCNN, example_inputs
from maskrcnn_jax.runs import saved_states
from maskrcnn_jax.settings import differences, from_dict, to_dict
from maskrcnn_jax.training import TrainState


class Run(NamedTuple):
    """A trained model from a run directory."""

    config: Config
    categories: Categories
    variables: dict[str, Any]
    step: int


class Checkpoints:
    """Saves the states of a run in the background, and restores the last readable one.

    The newest checkpoints and the best ones are kept. An interrupted save leaves a temporary
    directory, which no reader takes for a checkpoint. All processes must make the same calls.
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
        )
        self._directory = Path(directory).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def rate(self, step: int, score: float) -> None:
        """Sets the score of the checkpoint of a step; larger is better."""
        self._scores[step] = score

    def save(self, state: TrainState) -> None:
        """Copies the state to the host and writes it in the background, unless it is saved already.

        Raises:
            OSError: The previous save failed, for lack of disk space, for example.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = saved_states.items(state)
        items = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        with self._failure_named():
            self._manager.save(step, args=ocp.args.Composite(**items))

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
            raise ValueError(
                f"no checkpoint in {self._directory} can be read: {reasons}; use a new --workdir"
            )
        return None

    def _steps_seen_by_all(self) -> list[int]:
        """The saved steps, newest first. Raises OSError if the processes see different ones."""
        seen = distributed.gather([sorted(self._manager.all_steps(), reverse=True)])
        if any(steps != seen[0] for steps in seen):
            raise OSError(
                f"processes see different checkpoints in {self._directory}: {seen}; "
                "all need one --workdir"
            )
        return seen[0]

    def _read_by_all(self, step: int, state: TrainState) -> tuple[TrainState | None, str]:
        """The state of a step, or None and the damage; the same in all processes."""
        path = self._directory / str(step)
        restored, verdict, reason = None, _WHOLE, ""
        try:
            restored = saved_states.read(path, state)
        except saved_states.DoesNotFit as error:
            verdict, reason = _UNFIT, str(error)
        except (ValueError, LookupError, OSError) as error:
            verdict = _DAMAGED if saved_states.is_damage(error) else _OUT_OF_REACH
            reason = _first_line(error)

        verdicts, reasons = zip(*distributed.gather([[verdict, reason]]), strict=True)
        if _UNFIT in verdicts:
            raise ValueError(reasons[verdicts.index(_UNFIT)])
        # If any process can read the files, they are not damaged.
        if len(set(verdicts)) > 1 or _OUT_OF_REACH in verdicts:
            told = "; ".join(f"process {i}: {reason}" for i, reason in enumerate(reasons) if reason)
            raise OSError(f"cannot read {path}, and leave it as it is, for it may be whole: {told}")
        return restored, reason

    def _set_aside(self, damaged: dict[int, str]) -> None:
        """Renames damaged checkpoints, because the run takes these steps again."""
        failures = []
        if distributed.is_first():
            for step, reason in damaged.items():
                path = self._directory / str(step)
                warning = f"warning: cannot read {path}, going back to the one before: {reason}"
                print(warning, file=sys.stderr)
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
        """Turns errors of a background save, which Orbax raises at its next call, into OSError."""
        try:
            yield
        except Exception as error:
            message = f"cannot save a checkpoint in {self._directory}: {_first_line(error)}"
            raise OSError(message) from error

    def wait(self) -> None:
        """Waits until the last save is on disk. Raises OSError if the save failed."""
        with self._failure_named():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the last save, and stops Orbax's threads. Raises OSError if the save failed."""
        with self._failure_named():
            self._manager.close()


# One process's verdict on a checkpoint.
_WHOLE, _UNFIT, _DAMAGED, _OUT_OF_REACH = "whole", "unfit", "damaged", "out of reach"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else repr(error)


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


def write_run(directory: str | Path, config: Config, categories: Categories) -> None:
    """Creates a run directory, or checks that an existing one has the same model and categories.

    A run resumes with the same `ModelConfig`, categories and kind of optimizer. All other settings
    may change, such as `Config.execution` and `Config.detection`.

    The first process writes; then the others check that they see the same directory.

    Raises:
        ValueError: The directory has another model, other categories or another kind of optimizer;
            the message lists the differences.
        FileNotFoundError: This process sees another directory than the first process.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "config.json").exists():
        _check_same_run(directory, config, categories)
    elif not distributed.is_first():
        path = directory / "config.json"
        raise FileNotFoundError(
            f"{path}, which process 0 wrote, is not here: all processes need one --workdir"
        )
    if distributed.is_first():
        _write_json(directory / "categories.json", categories.to_json())
        # Written last, because its presence marks a run directory.
        _write_json(directory / "config.json", to_dict(config))


def _check_same_run(directory: Path, config: Config, categories: Categories) -> None:
    previous_config, previous_categories = read_settings(directory)
    changed = differences(_unchangeable(previous_config), _unchangeable(config))
    if previous_categories != categories:
        changed.append("the categories of the data set")
    if changed:
        raise ValueError(
            f"{directory} holds a run of another model, use a new --workdir; "
            f"changed: {'; '.join(changed)}"
        )


def _unchangeable(config: Config) -> Config:
    """A config with only the fields that a checkpoint depends on; the others have defaults."""
    # The decay of the average may change; whether the state has an average may not.
    average = None if config.optimizer.average_decay is None else 0.0
    optimizer = OptimizerConfig(name=config.optimizer.name, average_decay=average)
    return Config(model=config.model, optimizer=optimizer)


def load_run(directory: str | Path) -> Run:
    """Reads the variables of a run onto one device, for evaluation or prediction.

    Args:
        directory: A run directory, for its last checkpoint; or ``RUN/checkpoints/STEP``.

    Raises:
        FileNotFoundError: The directory is no run directory, or has no such checkpoint.
        ValueError: A file of the run is broken; the message names the file.
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
        target = ocp.args.StandardRestore(_variables_on_one_device(config.model))
        restored = manager.restore(step, args=ocp.args.Composite(variables=target))
    return Run(config, categories, restored.variables, step)


def _variables_on_one_device(config: ModelConfig) -> dict[str, Any]:
    """The shapes and dtypes of a model's variables, placed on the first device of this process."""
    init = MaskRCNN(config).init
    variables = jax.eval_shape(init, jax.random.key(0), *example_inputs(config))
    variables = {"constants": {}, "batch_stats": {}} | dict(variables)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

    return jax.tree.map(place, variables)


def _split_step(directory: Path) -> tuple[Path, int | None]:
    if directory.absolute().parent.name == "checkpoints" and directory.name.isdigit():
        return directory.absolute().parent.parent, int(directory.name)
    return directory, None


def read_settings(directory: Path) -> tuple[Config, Categories]:
    """Reads the config of a run directory, and the categories of its labels.

    Raises:
        FileNotFoundError: The directory is no run directory.
        ValueError: A file is broken; the message names the file.
    """
    if not (directory / "config.json").exists():
        raise FileNotFoundError(f"{directory} is not a run directory: it has no config.json")
    config = _read_json(directory / "config.json")
    categories = _read_json(directory / "categories.json")
    try:
        config = from_dict(Config, config)
        config_check.check(config)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {error}") from error
    try:
        return config, Categories.from_json(categories)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{directory / 'categories.json'} holds no categories: {error!r}"
        raise ValueError(message) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        message = f"{path.parent} is not a whole run directory: it has no {path.name}"
        raise FileNotFoundError(message) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _write_json(path: Path, value: Any) -> None:
    """Writes a file atomically: a killed run leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)
