"""Run directories: the resolved config, the categories, and Orbax checkpoints of the training state.

A run directory holds ``config.json``, ``categories.json``, ``metrics.jsonl`` and ``checkpoints/STEP/``. The variables
of the model and the state of the optimizer are separate items, so that evaluation and prediction read the former alone.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from maskrcnn_jax import config_check, distributed
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
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(state.variables),
            training=ocp.args.StandardSave(_without_variables(state)),
        )
        with self._failure_named():
            self._manager.save(step, args=items)

    def restore(self, state: TrainState) -> TrainState | None:
        """The last saved state that can be read, placed like the one given, or None if there is none.

        A checkpoint that cannot be read is set aside, as ``STEP.broken``, with a warning.

        Raises:
            ValueError: The checkpoint is of another model or optimizer; the message names what differs.
        """
        self.wait()
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._read(step, state)
            except _DoesNotFit as error:
                raise ValueError(str(error)) from None
            except (ValueError, LookupError, OSError) as error:
                self._set_aside(step, error)
        return None

    def _read(self, step: int, state: TrainState) -> TrainState:
        targets = {"variables": _abstract(state.variables), "training": _abstract(_without_variables(state))}
        for item, target in targets.items():
            path = self._directory / str(step) / item
            differing = _differences(ocp.StandardCheckpointHandler().metadata(path).tree, target)
            if differing:
                raise _DoesNotFit(f"{path} does not fit this config: {differing}; use a new --workdir")
        items = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        return _join(restored.variables, restored.training)

    def _set_aside(self, step: int, error: Exception) -> None:
        path = self._directory / str(step)
        if distributed.is_first():
            reason = str(error).splitlines()[0][:200]
            print(f"warning: cannot read {path}, going back to the one before: {reason}", file=sys.stderr)
            path.rename(path.with_name(f"{step}.broken"))
        distributed.wait_for_all(f"checkpoint {step} is set aside")
        self._manager.reload()

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        """Orbax raises what went wrong in the background at the next call, as whatever it was."""
        try:
            yield
        except Exception as error:
            reason = str(error).splitlines()[0][:300] if str(error) else repr(error)
            raise OSError(f"cannot save a checkpoint in {self._directory}: {reason}") from error

    def wait(self) -> None:
        """Returns when the last save is on disk. Raises OSError if it failed."""
        with self._failure_named():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the last save and stops the background threads. Raises OSError if the save failed."""
        with self._failure_named():
            self._manager.close()


class _DoesNotFit(Exception):
    """A good checkpoint, of something else."""


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

    Raises:
        ValueError: The directory holds another model, or another kind of optimizer; the message lists the fields that
            differ.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "config.json").exists():
        previous_config, previous_categories = read_settings(directory)
        changed = differences(_shape_of_state(previous_config), _shape_of_state(config))
        if previous_categories != categories:
            changed.append("the categories of the data set")
        if changed:
            raise ValueError(
                f"{directory} holds a run of another model, use a new --workdir; changed: {'; '.join(changed)}"
            )
    _write_json(directory / "config.json", to_dict(config))
    _write_json(directory / "categories.json", categories.to_json())


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


def _without_variables(state: TrainState) -> dict[str, Any]:
    """What only training needs. Where an average is kept, the variables have it in the place of the parameters."""
    params = None if state.average is None else state.params
    return {"step": state.step, "optimizer": state.optimizer, "params": params}


def _join(variables: dict[str, Any], training: dict[str, Any]) -> TrainState:
    params = training.pop("params")
    if params is None:
        return TrainState(**variables, **training)
    return TrainState(**variables | {"params": params}, **training, average=variables["params"])


def _differences(saved: Any, target: Any) -> str:
    """Names of what one of them has and the other has not, or has in another shape; empty if there are none."""
    saved = {leaf.name: tuple(leaf.shape) for leaf in jax.tree.leaves(saved)}
    leaves = jax.tree_util.tree_leaves_with_path(target)
    wanted = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
    found = [f"{name} is missing" for name in sorted(wanted.keys() - saved.keys())]
    found += [f"{name} is unexpected" for name in sorted(saved.keys() - wanted.keys())]
    both = sorted(wanted.keys() & saved.keys())
    found += [f"{name} is {saved[name]}, not {wanted[name]}" for name in both if saved[name] != wanted[name]]
    return ", ".join(found[:5]) + (f", and {len(found) - 5} more" if len(found) > 5 else "")


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
