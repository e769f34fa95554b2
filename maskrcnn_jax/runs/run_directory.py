"""Run directories: the config and the categories of a run, and the variables it has learned.

A run directory holds ``config.json``, ``categories.json``, ``metrics.jsonl``, ``commands.jsonl``
and ``checkpoints/STEP/``.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from maskrcnn_jax import config_check, distributed, whole_files
from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.runs import saved_states
from maskrcnn_jax.runs.plain_path import PlainPath
from maskrcnn_jax.settings import differences, from_dict, to_dict
from maskrcnn_jax.variables import variable_shapes

COMMANDS = "commands.jsonl"


class Run(NamedTuple):
    """A trained model from a run directory."""

    config: Config
    categories: Categories
    variables: dict[str, Any]
    step: int


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
    elif distributed.is_first():
        _check_new(directory)
    else:
        path = directory / "config.json"
        raise FileNotFoundError(
            f"{path}, which process 0 wrote, is not here: all processes need one --workdir"
        )
    if distributed.is_first():
        _write_json(directory / "categories.json", categories.to_json())
        # Written last, because its presence marks a run directory.
        _write_json(directory / "config.json", to_dict(config))


def _check_new(directory: Path) -> None:
    """Raises ValueError if a directory that is no run has files that a run would replace."""
    names = ("metrics.jsonl", "checkpoints", "left_out.json", "lost_images.*", "*.tfevents.*")
    found = [path for name in names for path in sorted(directory.glob(name))]
    if found:
        raise ValueError(
            f"{directory} is no run, since it has no config.json, but has {found[0].name}: "
            "use a new --workdir"
        )


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
    directory, chosen = split_step(Path(directory))
    config, categories = read_settings(directory)
    with contextlib.closing(PlainPath(directory)) as plain:
        with ocp.CheckpointManager(plain.path / "checkpoints") as manager:
            steps = sorted(manager.all_steps())
        if not steps:
            raise FileNotFoundError(f"{directory} has no finished checkpoint yet")
        step = steps[-1] if chosen is None else chosen
        if step not in steps:
            raise FileNotFoundError(f"{directory} has no checkpoint of step {step}, but {steps}")
        target = _variables_on_one_device(config.model)
        try:
            variables = saved_states.read_variables(plain.path / "checkpoints" / str(step), target)
        except saved_states.DoesNotFit as error:
            raise ValueError(plain.named(str(error))) from error
        except (ValueError, LookupError, OSError) as error:
            reason = plain.named(saved_states.first_line(error))
            path = directory / "checkpoints" / str(step)
            raise ValueError(f"the checkpoint {path} cannot be read: {reason}") from error
    return Run(config, categories, variables, step)


def _variables_on_one_device(config: ModelConfig) -> dict[str, Any]:
    """The shapes and dtypes of a model's variables, placed on the first device of this process."""
    variables = {"constants": {}, "batch_stats": {}} | variable_shapes(config)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

    return jax.tree.map(place, variables)


def split_step(directory: Path) -> tuple[Path, int | None]:
    """Splits ``RUN/checkpoints/STEP``; a directory of another form has no step."""
    if directory.absolute().parent.name == "checkpoints" and directory.name.isdigit():
        return directory.absolute().parent.parent, int(directory.name)
    return directory, None


def add_command(directory: str | Path, command: Sequence[str]) -> None:
    """Records the words of the command that starts or resumes a run, one list in each line."""
    with (Path(directory) / COMMANDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(list(command)) + "\n")


def commands(directory: Path) -> list[list[str]]:
    """Returns the recorded commands of a run; none if it has no record.

    Raises ValueError if the record is broken; the message names the file.
    """
    path = directory / COMMANDS
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not all(isinstance(x, list) and all(isinstance(word, str) for word in x) for x in found):
        raise ValueError(f"{path} must have a list of words in each line")
    return found


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
        return config, Categories.checked(categories)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{directory / 'categories.json'} holds no categories: {error!r}"
        raise ValueError(message) from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{path.parent} is not a whole run directory: it has no {path.name}"
        raise FileNotFoundError(message) from error
    except (ValueError, RecursionError) as error:  # Text in another encoding is a ValueError too.
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _write_json(path: Path, value: Any) -> None:
    whole_files.write_text(path, json.dumps(value, indent=2) + "\n")
