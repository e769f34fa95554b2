"""Loads the variables of a model from a weight file, a run directory or a released file.

In all families of names, frozen and trained batch norm have the same arrays, so the weights of one
also load into a model with the other.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import (
    layout,
    own,
    reading,
    stem,
)
from maskrcnn_jax.weights.layout import Entry
from maskrcnn_jax.weights.norm_eps import choose as choose_eps
from maskrcnn_jax.weights.norm_eps import replace as replace_eps
from maskrcnn_jax.weights.reading import Origin, Source
from maskrcnn_jax.weights.report import Report, describe


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
    released = reading.RELEASED if config is None else reading.released_for(config)
    source = reading.read(weights, released, preset=preset, channel_order=channel_order)
    return fit(source, config, num_classes=num_classes, norm_eps=norm_eps, seed=seed)


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
    For another number of channels than three, the first convolution changes; see `stem.mixture`.
    """
    wanted = _wanted(source, config, num_classes)
    carried = source.config.model if source.config and source.is_config_carried else None
    eps = choose_eps(wanted, given=norm_eps, config=config, carried=carried, digest=source.digest)
    model = replace_eps(wanted, eps)

    found = source.layout.num_classes(source.arrays) or model.num_classes
    table, told = _matched(source, dataclasses.replace(model, num_classes=found))
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
        reasons=(*source.reasons, *told),
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
    if num_classes not in (None, model.num_classes):
        # The frequencies are those of other classes.
        head = dataclasses.replace(model.box_head, class_frequencies=())
        model = dataclasses.replace(model, num_classes=num_classes, box_head=head)
    if model.num_classes < 2:
        raise ValueError(
            f"{source.path}: num_classes must be at least 2, with background; "
            f"got {model.num_classes}"
        )
    return model


def _matched(source: Source, config: ModelConfig) -> tuple[list[Entry], tuple[str, ...]]:
    """Returns the table of a config, and lines for the report if the first convolution changes.

    Raises ValueError unless the source fits the table exactly.
    """
    try:
        table = list(source.layout.entries(config))
    except ValueError as error:
        message = f"{source.path} has {source.layout.WHOSE} names, but {error}"
        raise ValueError(message + _looks(source, config)) from error
    trained = source.config.model if source.config else config
    told = stem.adapt(source.arrays, table, config, trained.image_std)
    message = f"{source.path} does not fit {describe(config)}{_looks(source, config)}"
    layout.check_fit(source.arrays, layout.shapes(table), message)
    return table, told


def _looks(source: Source, config: ModelConfig) -> str:
    """Says which network a source is of, and its preset, if it is another one than that wanted."""
    if source.config is None or describe(source.config.model) == describe(config):
        return ""
    preset = presets.name_of(source.config.model)
    named = f", the network of presets.{preset}" if preset else ""
    return f"; it looks like {describe(source.config.model)}{named}"


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
