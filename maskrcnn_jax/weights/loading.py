"""From a weight file, a run directory or the name of a released file to the variables of a model.

The layout of a source is torchvision's, see `torchvision`, or our own: the paths of our variables. In either, frozen
and trained batch norm hold the same numbers, and each is loaded into a model with the other.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from maskrcnn_jax import artifact
from maskrcnn_jax.config import Config, ModelConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.weights import architecture, download, files, model_metadata, torchvision
from maskrcnn_jax.weights.report import Report
from maskrcnn_jax.weights.torchvision import Entry

RELEASED = {"COCO_V1": "maskrcnn_resnet50_fpn", "V2_COCO_V1": "maskrcnn_resnet50_fpn_v2"}
COLLECTIONS = ("params", "constants", "batch_stats")
DEFAULT_EPS = ModelConfig().norm_eps


class Source(NamedTuple):
    """Arrays by name, and what is known of the model they belong to."""

    path: Path
    digest: str | None  # sha256 of a file; a run directory has none.
    is_own: bool  # Named by our paths, without the collection; else by torchvision's present names.
    arrays: dict[str, np.ndarray]
    renamed: dict[str, str]  # Present names by the old ones that the file has.
    config: Config | None  # None where our own names come without it.
    is_config_carried: bool  # The source says what it is; else it was inferred.
    categories: Categories | None  # None if nobody knows what the labels mean.


class LoadedModel(NamedTuple):
    """A model that is ready to run."""

    config: Config  # The whole experiment for a run directory, else the model and the sizes at which it is tested.
    variables: dict[str, Any]  # NumPy arrays, float32.
    categories: Categories | None  # None if nobody knows what the labels mean.
    report: Report


def load(
    weights: str | Path,
    config: ModelConfig | None = None,
    *,
    num_classes: int | None = None,
    norm_eps: float | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Loads the weights of a whole detector.

    Args:
        weights: A weight file, a run directory, or "COCO_V1" and "V2_COCO_V1", which torchvision released for
            `maskrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn_v2`.
        config: The model to load them into, by default the one they were trained with. "COCO_V1" is then the released
            file of its architecture. An eps of the norms that is not the default is kept; the default gives way to
            that of the weights, as in `fit`.
        num_classes: Background included; by default that of the config, or of the weights.
        norm_eps: Replaces the eps of the norms.
        seed: Of the layers that start from random values, which are those that do not fit another number of classes.

    Raises:
        OSError: No such file, or it cannot be downloaded.
        ValueError: The weights are broken or do not fit; the message names the file and every array that is wrong.
    """
    source = read(weights, RELEASED if config is None else released_for(config))
    return fit(source, config, num_classes=num_classes, norm_eps=norm_eps, seed=seed)


def released_for(config: ModelConfig) -> dict[str, str]:
    """What "COCO_V1" stands for where the architecture is given; empty if torchvision released no weights for it."""
    name = architecture.builder(config)
    return {"COCO_V1": name} if name else {}


def read(weights: str | Path, released: Mapping[str, str] = RELEASED) -> Source:
    """Reads arrays and what is known of them; nothing is compared with a model yet.

    Args:
        weights: A weight file, a run directory, or a released name.
        released: Functions of torchvision by the names that stand for their files.
    """
    if str(weights) in released:
        path = download.fetch(download.DETECTORS[released[str(weights)]])
    else:
        path = Path(weights)
    if not path.exists():
        names = " or ".join(f'"{name}"' for name in released)
        also = f"expected such a path or {names}" if released else "and torchvision released none for this architecture"
        raise FileNotFoundError(f"there is no weight file and no run directory {weights}; {also}")
    return _read_run(path) if path.is_dir() else _read_file(path)


def _read_run(path: Path) -> Source:
    from maskrcnn_jax import checkpoints  # Only runs need Orbax.

    run = checkpoints.load_run(path)
    arrays = traverse_util.flatten_dict(jax.device_get(run.variables), sep="/")
    return Source(path, None, True, _without_collection(arrays), {}, run.config, True, run.categories)


def _read_file(path: Path) -> Source:
    arrays, metadata = files.read(path)
    digest = files.sha256(path)
    try:
        if artifact.KEY in metadata:
            raise ValueError("it is an exported artifact, which goes by --artifact")
        config, categories = model_metadata.decode(metadata)
        is_carried = config is not None
        if any(name.startswith(COLLECTIONS) for name in arrays):
            return Source(path, digest, True, _without_collection(arrays), {}, config, is_carried, categories)
        names = torchvision.present_names(arrays)
        arrays = {names.get(name, name): array for name, array in arrays.items()}
        config = config or Config(model=architecture.infer(arrays))
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    if categories is None and not is_carried and config.model.num_classes == architecture.COCO_CLASSES:
        categories = Categories.torchvision_coco()
    return Source(path, digest, False, torchvision.without_counters(arrays), names, config, is_carried, categories)


def _without_collection(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names as modules and leaf: "backbone/bn1/scale" is frozen in one collection, and trains in another."""
    short = {}
    for name, array in arrays.items():
        collection, _, rest = name.partition("/")
        key = rest if collection in COLLECTIONS else name
        if key in short:
            raise ValueError(f"{key} is there twice")
        short[key] = np.asarray(array)
    return short


def fit(
    source: Source,
    config: ModelConfig | None = None,
    *,
    num_classes: int | None = None,
    norm_eps: float | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Makes variables of a model from a source; arguments and errors as in `load`.

    Of another number of classes, the layers that have an output for each class start from random values.

    The eps of the norms is, in this order: as given; that of ``config`` if it is not the default, 1e-5; that which the
    source carries; 0 for the released weights of `maskrcnn_resnet50_fpn`, which were trained so; 1e-5. The third and
    fourth hold for the norm with which the weights were trained only: statistics of a batch need an eps.
    """
    if config is None and source.config is None:
        raise ValueError(f"{source.path} does not say what model it is of, and has no names of torchvision's")
    model = config or source.config.model
    found = _num_classes(source, default=model.num_classes)
    num_classes = num_classes or (found if config is None else config.num_classes)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, with background; got {num_classes}")
    eps, reason = _norm_eps(source, config, model.norm, norm_eps)
    model = dataclasses.replace(model, norm_eps=eps)

    table = _matched(source, dataclasses.replace(model, num_classes=found))
    model = dataclasses.replace(model, num_classes=num_classes)
    wanted = table if found == num_classes else _table(source, model)
    fresh = [entry for entry, kept in zip(wanted, table, strict=True) if entry.shape != kept.shape]
    names = tuple(entry.name for entry in fresh)
    variables = torchvision.arrange(source.arrays, [entry for entry in table if entry.name not in names])
    if fresh:
        _fill(variables, _initial(model, {entry.path for entry in fresh}, seed))
    if source.categories is not None and len(source.categories) != found - 1:
        raise ValueError(f"{source.path} has {found} classes with background, but {len(source.categories)} categories")
    report = Report(
        source=str(source.path),
        digest=source.digest,
        architecture=architecture.describe(model),
        norm_eps=eps,
        norm_eps_reason=reason,
        num_arrays=len(table) - len(fresh),
        renamed=source.renamed,
        reinitialised=names,
        num_classes_found=found,
    )
    experiment = dataclasses.replace(source.config or Config(), model=model)
    return LoadedModel(experiment, variables, None if fresh else source.categories, report)


def _num_classes(source: Source, default: int) -> int:
    bias = source.arrays.get("box_head/cls_score/bias" if source.is_own else "roi_heads.box_predictor.cls_score.bias")
    return default if bias is None else bias.size


def _norm_eps(source: Source, config: ModelConfig | None, norm: str, given: float | None) -> tuple[float, str]:
    """The eps of the norms, and why."""
    if given is not None:
        return given, "as given"
    if config is not None and config.norm_eps != DEFAULT_EPS:
        return config.norm_eps, "as the configuration says"
    if source.is_config_carried and source.config.model.norm == norm:
        return source.config.model.norm_eps, "as the weights say"
    # The name of a released file ends in the beginning of its digest.
    released = Path(download.DETECTORS["maskrcnn_resnet50_fpn"]).stem.rpartition("-")[2]
    if norm == "frozen_batch" and source.digest is not None and source.digest.startswith(released):
        return 0.0, "as the released maskrcnn_resnet50_fpn was trained"
    return DEFAULT_EPS, "torchvision's default"


def _matched(source: Source, config: ModelConfig) -> list[Entry]:
    """The table of a configuration that the arrays of a source fit exactly."""
    try:
        table = _table(source, config)
    except ValueError as error:
        names = "our" if source.is_own else "torchvision's"
        raise ValueError(f"{source.path} has {names} names, but {error}") from error
    if problems := torchvision.misfits(source.arrays, {entry.name: entry.shape for entry in table}):
        message = f"{source.path} does not fit {architecture.describe(config)}"
        if source.config is not None and architecture.describe(source.config.model) != architecture.describe(config):
            message += f"; it looks like {architecture.describe(source.config.model)}"
        raise ValueError(message + ":\n  " + "\n  ".join(problems))
    return table


def _table(source: Source, config: ModelConfig) -> list[Entry]:
    """Every array of a model, under its name in the layout of a source."""
    if not source.is_own:
        return list(torchvision.entries(config))
    shapes = traverse_util.flatten_dict(jax.eval_shape(_initialiser(config), jax.random.key(0)))
    return [
        Entry("/".join(path[1:]), path, x.shape, x.shape, tuple(range(x.ndim)), x.shape) for path, x in shapes.items()
    ]


def _initialiser(config: ModelConfig) -> Any:
    return lambda key: MaskRCNN(config).init(key, jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64, jnp.int32))


def _initial(config: ModelConfig, paths: set[tuple[str, ...]], seed: int) -> dict[tuple[str, ...], np.ndarray]:
    """Random initial values of some variables; the compiler drops all that concerns the others."""

    def draw(key: jax.Array) -> dict[tuple[str, ...], jax.Array]:
        variables = traverse_util.flatten_dict(_initialiser(config)(key))
        return {path: variables[path] for path in paths}

    # It runs once: to optimise the program would take longer.
    once = jax.jit(draw, compiler_options={"xla_backend_optimization_level": 0})
    return jax.device_get(once(jax.random.key(seed)))


def _fill(variables: dict[str, Any], leaves: Mapping[tuple[str, ...], np.ndarray]) -> None:
    """Puts leaves into nested dictionaries."""
    for (*parents, leaf), array in leaves.items():
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
