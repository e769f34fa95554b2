"""Loads the variables of a model from a weight file, a run directory or a released file.

The names in a source belong to one of the families, which are modules with the same functions. In
all families, frozen and trained batch norm have the same arrays, so the weights of one also load
into a model with the other.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from maskrcnn_jax import presets
from maskrcnn_jax.artifacts import artifact
from maskrcnn_jax.config import Config, ModelConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.weights import (
    detectron1,
    detectron2,
    download,
    files,
    layout,
    mmdetection,
    model_metadata,
    own,
    prefixes,
    state_dicts,
    torchvision,
    torchvision_resnet,
    zoo,
)
from maskrcnn_jax.weights.guess import Guess
from maskrcnn_jax.weights.layout import Entry
from maskrcnn_jax.weights.norm_eps import choose as choose_eps
from maskrcnn_jax.weights.norm_eps import replace as replace_eps
from maskrcnn_jax.weights.report import Report, describe

FAMILIES = (own, torchvision, detectron2, mmdetection, detectron1)
RELEASED = {"COCO_V1": "maskrcnn_resnet50_fpn", "V2_COCO_V1": "maskrcnn_resnet50_fpn_v2"}


class Origin(NamedTuple):
    """The library of a file, and what the file holds beside the variables of our model."""

    family: ModuleType  # One of `FAMILIES`.
    is_bgr: bool  # The order of the channels that the stem of the file reads; ours is RGB.
    extras: dict[str, np.ndarray]  # Batch counters; anchors and pixel statistics, if there.


class Source(NamedTuple):
    """Arrays by name, and the known facts about their model."""

    path: Path
    digest: str | None  # sha256 of a file; None for a run directory.
    layout: ModuleType  # One of `FAMILIES`.
    arrays: dict[str, np.ndarray]  # By the present names of the family.
    renamed: dict[str, str]  # Present names by the old names in the file.
    config: Config | None  # None for a file with our names but without metadata.
    is_config_carried: bool  # Whether the source stores the config; otherwise it was inferred.
    categories: Categories | None  # None if unknown.
    reasons: tuple[str, ...] = ()  # Lines for the report: what was inferred or assumed, and why.
    is_bgr: bool = False  # As in `Origin`. The arrays here are RGB.
    extras: Mapping[str, np.ndarray] = MappingProxyType({})  # As in `Origin`.


class LoadedModel(NamedTuple):
    """A model that is ready to run."""

    # Complete for a run directory. Otherwise only the model, the detection settings and the test
    # sizes of images come from the source.
    config: Config
    variables: dict[str, Any]  # NumPy arrays, float32.
    categories: Categories | None  # None if unknown.
    report: Report
    origin: Origin | None = None


def load(
    weights: str | Path,
    config: ModelConfig | None = None,
    *,
    num_classes: int | None = None,
    norm_eps: float | None = None,
    preset: str | Config | None = None,
    channel_order: str | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Loads the weights of a whole detector.

    Args:
        weights: A weight file; a run directory; "COCO_V1" or "V2_COCO_V1", torchvision's released
            weights of `maskrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn_v2`; or a name of
            `zoo`, such as "detectron2:mask_rcnn_R_50_FPN_3x".
        config: The model to load the weights into; by default the model that they were trained
            with. With a config, "COCO_V1" names the released file of its architecture. See
            `norm_eps.choose` for the eps of the norms.
        num_classes: Number of classes, including background; by default that of the config or of
            the weights.
        norm_eps: Replaces the eps of all norms.
        preset: A function of `presets` for Detectron2 or MMDetection, by its name, or a config
            such as `detectron2_config.read` returns. It replaces what a file of these does not
            say: pixel statistics, the place of strides, and rules. By default it is inferred, and
            the report says why.
        channel_order: "RGB" or "BGR", the order in which the network of such a file reads its
            channels; by default that of the preset. Images are always given as RGB.
        seed: Seed of the random values of layers that do not fit another number of classes.

    Raises:
        OSError: The file does not exist or cannot be downloaded.
        ValueError: The weights are broken or do not fit; the message names the file and every array
            that is wrong.
    """
    released = RELEASED if config is None else released_for(config)
    source = read(weights, released, preset=preset, channel_order=channel_order)
    return fit(source, config, num_classes=num_classes, norm_eps=norm_eps, seed=seed)


def is_released(name: str) -> bool:
    """Whether a name stands for released weights instead of a path."""
    return name in RELEASED or zoo.is_name(name)


def released_for(config: ModelConfig) -> dict[str, str]:
    """Maps "COCO_V1" to torchvision's function for an architecture; empty without a release."""
    name = torchvision.function_of(config)
    return {"COCO_V1": name} if name else {}


def read(
    weights: str | Path,
    released: Mapping[str, str] = RELEASED,
    *,
    preset: str | Config | None = None,
    channel_order: str | None = None,
) -> Source:
    """Reads arrays and the known facts about their model, without comparing them with a model.

    Args:
        weights: A weight file, a run directory, or a released name.
        released: Functions of torchvision by the released names of their weights.
        preset: As in `load`.
        channel_order: As in `load`.

    Raises:
        OSError: The file does not exist or cannot be downloaded.
        ValueError: The file is broken, or its names belong to no family.
    """
    if isinstance(preset, str) and preset not in presets.OF_OTHERS:
        known = ", ".join(presets.OF_OTHERS)
        raise ValueError(f"preset must be one of {known}; got {preset!r}")
    if channel_order not in (None, "RGB", "BGR"):
        raise ValueError(f'channel_order must be "RGB" or "BGR", got {channel_order!r}')
    if str(weights) in released:
        path = download.fetch(download.DETECTORS[released[str(weights)]])
    elif zoo.is_name(str(weights)):
        path = download.fetch_release(zoo.release(str(weights)))
    else:
        path = Path(weights)
    if path.exists():
        return _read_run(path) if path.is_dir() else _read_file(path, preset, channel_order)
    names = " or ".join(f'"{name}"' for name in released)
    if released:
        accepted = f"expected such a path or {names}"
    else:
        accepted = "and torchvision released none for this architecture"
    raise FileNotFoundError(f"there is no weight file and no run directory {weights}; {accepted}")


def _read_run(path: Path) -> Source:
    from maskrcnn_jax.runs import run_directory  # Only runs need Orbax.

    run = run_directory.load_run(path)
    flat = traverse_util.flatten_dict(jax.device_get(run.variables), sep="/")
    arrays, renamed = own.present(flat)
    return Source(path, None, own, arrays, renamed, run.config, True, run.categories)


def _read_file(path: Path, preset: str | Config | None, channel_order: str | None) -> Source:
    arrays: Mapping[str, Any]
    arrays, metadata = files.read(path)
    digest = files.sha256(path)
    arrays = prefixes.without(arrays, lambda names: any(f.recognises(names) for f in FAMILIES))
    try:
        if artifact.KEY in metadata:
            raise ValueError("it is an exported artifact, which goes by --artifact")
        config, categories = model_metadata.decode(metadata)
        is_carried = config is not None
        family = _family(arrays)
        inferred = None if is_carried else family.infer(arrays, metadata)
        present, renamed = family.present(arrays)
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    taken = (metadata[state_dicts.TAKEN],) if state_dicts.TAKEN in metadata else ()
    source = Source(path, digest, family, present, renamed, config, is_carried, categories, taken)
    source = source._replace(extras=_extras(arrays, family))
    if family in (own, torchvision) and (preset or channel_order):
        raise ValueError(
            f"{path} has {family.WHOSE} names: preset and channel_order are for other libraries"
        )
    return source if inferred is None else _with(source, inferred, preset, channel_order)


def _extras(arrays: Mapping[str, np.ndarray], family: ModuleType) -> dict[str, np.ndarray]:
    """Returns the arrays of `Origin.extras`."""
    kept = {}
    for name, array in arrays.items():
        is_counter = name.endswith(f".{torchvision_resnet.COUNTER}")
        is_setting = family is detectron2 and name in detectron2.PIXELS
        is_setting |= family is detectron2 and name.startswith(detectron2.CELLS)
        if is_setting or (is_counter and not name.startswith(mmdetection.EMA)):
            kept[name] = np.asarray(array)
    return kept


def _with(
    source: Source, inferred: Guess, preset: str | Config | None, channel_order: str | None
) -> Source:
    """Adds what was inferred of a network, and brings the channels of its input to RGB."""
    config, is_bgr, reasons = inferred.config, inferred.is_bgr, inferred.reasons
    if preset is not None:
        config = presets.applied(preset, config)
        is_bgr = max(config.model.image_std) < presets.LARGEST_STD_OF_CAFFE
        order = "BGR" if is_bgr else "RGB"
        whose = f"presets.{preset}" if isinstance(preset, str) else "the given settings"
        reasons = (f"{order} pixels and all rules of {whose}",)
    if channel_order is not None:
        is_bgr, reasons = channel_order == "BGR", (*reasons, f"{channel_order} channels, as given")
    stem = source.layout.STEM
    if is_bgr and stem in source.arrays and source.arrays[stem].ndim == 4:
        source.arrays[stem] = source.arrays[stem][:, ::-1]
    return source._replace(
        config=config,
        categories=source.categories or inferred.categories,
        reasons=(*source.reasons, *reasons),
        is_bgr=is_bgr,
    )


def _family(arrays: Mapping[str, np.ndarray]) -> ModuleType:
    """Finds the family whose names a file has."""
    for family in FAMILIES:
        if family.recognises(arrays):
            return family
    if depth := torchvision_resnet.resnet_depth(arrays):
        found = f"it looks like a ResNet-{depth} for classification: give it as backbone_weights"
    elif detectron1.is_backbone(arrays) or detectron2.is_backbone(arrays):
        found = "it looks like the backbone of a detector: give it as backbone_weights"
    elif arrays:
        names = ", ".join(name[:100] for name in list(arrays)[:3])
        found = f"of its {len(arrays)} arrays the first are {names}"
    else:
        found = "it holds no array"
    raise ValueError(f"it is no detector that we know: {found}")


def fit(
    source: Source,
    config: ModelConfig | None = None,
    *,
    num_classes: int | None = None,
    norm_eps: float | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Makes a model from a source, whose arrays it takes; arguments and errors as in `load`.

    For another number of classes, the layers with one output per class are initialised at random.
    """
    wanted = _wanted(source, config, num_classes)
    carried = source.config.model if source.config and source.is_config_carried else None
    eps = choose_eps(wanted, given=norm_eps, config=config, carried=carried, digest=source.digest)
    model = replace_eps(wanted, eps)

    found = source.layout.num_classes(source.arrays) or model.num_classes
    table = _matched(source, dataclasses.replace(model, num_classes=found))
    _check_categories(source, found)
    fresh = [] if found == model.num_classes else _misshapen(table, source.layout.entries(model))
    kept = [entry for entry in table if entry.path not in fresh]
    variables = layout.arrange(source.arrays, kept, consume=True)
    if fresh:
        variables = _filled(variables, _initial(model, fresh, seed))
    report = Report(
        source=str(source.path),
        digest=source.digest,
        architecture=describe(model),
        norm_eps=eps,
        num_arrays=len(table) - len(fresh),
        renamed=source.renamed,
        reinitialised=tuple(entry.name for entry in table if entry.path in fresh),
        num_classes_found=found,
        reasons=source.reasons,
    )
    experiment = dataclasses.replace(source.config or Config(), model=model)
    categories = None if fresh else source.categories
    origin = Origin(source.layout, source.is_bgr, dict(source.extras))
    return LoadedModel(experiment, variables, categories, report, origin)


def _wanted(source: Source, config: ModelConfig | None, num_classes: int | None) -> ModelConfig:
    """Returns the config of the model to load into; the eps of its norms is not final."""
    if config is not None:
        model = config
    elif source.config is not None:
        model = source.config.model
    else:
        raise ValueError(f"{source.path} has our names, but does not say what model it is of")
    if num_classes is None and config is None:
        num_classes = source.layout.num_classes(source.arrays)
    if num_classes is not None:
        model = dataclasses.replace(model, num_classes=num_classes)
    if model.num_classes < 2:
        raise ValueError(
            f"{source.path}: num_classes must be at least 2, with background; "
            f"got {model.num_classes}"
        )
    return model


def _matched(source: Source, config: ModelConfig) -> list[Entry]:
    """Returns the table of a config. Raises ValueError unless the source fits it exactly."""
    try:
        table = list(source.layout.entries(config))
    except ValueError as error:
        raise ValueError(f"{source.path} has {source.layout.WHOSE} names, but {error}") from error
    message = f"{source.path} does not fit {describe(config)}"
    if source.config is not None and describe(source.config.model) != describe(config):
        message += f"; it looks like {describe(source.config.model)}"
    layout.check_fit(source.arrays, layout.shapes(table), message)
    return table


def _check_categories(source: Source, num_classes: int) -> None:
    if source.categories is not None and len(source.categories) != num_classes - 1:
        raise ValueError(
            f"{source.path} has {num_classes} classes with background, "
            f"but {len(source.categories)} categories"
        )


def _misshapen(found: Iterable[Entry], wanted: Iterable[Entry]) -> list[layout.Path]:
    """Returns the paths of the arrays whose shapes differ between two tables."""
    pairs = zip(found, wanted, strict=True)
    return [theirs.path for theirs, ours in pairs if theirs.shape != ours.shape]


def _initial(
    config: ModelConfig, paths: Sequence[layout.Path], seed: int
) -> dict[layout.Path, np.ndarray]:
    """Returns random initial values of some variables; the compiler eliminates all others."""
    initialise = own.initialiser(config)

    def draw(key: jax.Array) -> dict[layout.Path, jax.Array]:
        variables = traverse_util.flatten_dict(initialise(key))
        return {path: variables[path] for path in paths}

    # The program runs only once, so its optimisation would not pay off.
    once = jax.jit(draw, compiler_options={"xla_backend_optimization_level": 0})
    return jax.device_get(once(jax.random.key(seed)))


def _filled(variables: dict[str, Any], leaves: Mapping[layout.Path, np.ndarray]) -> dict[str, Any]:
    """Adds leaves to nested variables."""
    flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
    return traverse_util.unflatten_dict(flat | dict(leaves))
