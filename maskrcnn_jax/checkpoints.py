"""Run directories: the resolved config, the categories, and Orbax checkpoints of the training state.

A run directory holds ``config.json``, ``categories.json``, ``metrics.jsonl`` and ``checkpoints/STEP/``. The variables
of the model and the state of the optimizer are separate items, so that evaluation and prediction read the former alone.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from maskrcnn_jax.config import Config, differences, from_dict, to_dict
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
    """Saves the state of a run in the background, keeps the newest few, and restores the last.

    A save that was cut short leaves a temporary directory which is never taken for a checkpoint.
    """

    def __init__(self, directory: str | Path, keep: int) -> None:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            save_decision_policy=ocp.checkpoint_managers.AnySavePolicy(
                [ocp.checkpoint_managers.FixedIntervalPolicy(1)]
            ),
        )
        self._manager = ocp.CheckpointManager(Path(directory).absolute() / "checkpoints", options=options)

    def save(self, state: TrainState) -> None:
        """Copies the state to the host and writes it in the background; nothing if this step was saved already."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(state.variables),
                training=ocp.args.StandardSave(_without_variables(state)),
            ),
        )

    def restore(self, state: TrainState) -> TrainState | None:
        """The last saved state, placed like the one given, or None if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(_abstract(state.variables)),
                training=ocp.args.StandardRestore(_abstract(_without_variables(state))),
            ),
        )
        return _join(restored.variables, restored.training)

    def wait(self) -> None:
        """Returns when the last save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the last save and stops the background threads."""
        self._manager.close()


def write_run(directory: str | Path, config: Config, categories: Categories) -> None:
    """Creates a run directory, or checks that an existing one holds the same model and categories.

    Raises:
        ValueError: The directory holds another model; the message lists the fields that differ.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "config.json").exists():
        previous_config, previous_categories = _read_run(directory)
        changed = differences(previous_config.model, config.model, "model.")
        if previous_categories != categories:
            changed.append("the categories of the data set")
        if changed:
            raise ValueError(
                f"{directory} holds a run of another model, use a new --workdir; changed: {'; '.join(changed)}"
            )
    _write_json(directory / "config.json", to_dict(config))
    _write_json(directory / "categories.json", categories.to_json())


def load_run(directory: str | Path) -> Run:
    """Reads the last checkpoint of a run, onto one device, for evaluation or prediction.

    Raises:
        FileNotFoundError: No run directory, or one without a finished checkpoint.
        ValueError: A file in it is broken; the message names it.
    """
    directory = Path(directory)
    config, categories = _read_run(directory)
    with ocp.CheckpointManager(directory.absolute() / "checkpoints") as manager:
        step = manager.latest_step()
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


def _read_run(directory: Path) -> tuple[Config, Categories]:
    if not (directory / "config.json").exists():
        raise FileNotFoundError(f"{directory} is not a run directory: it has no config.json")
    config = from_dict(Config, _read_json(directory / "config.json"))
    return config, Categories.from_json(_read_json(directory / "categories.json"))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
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


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
