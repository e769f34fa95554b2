"""Reads a weight file, a run directory or a released file, and finds out what model it is of.

The names in a source belong to one of the families, which are modules with the same functions.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from maskrcnn_jax import presets
from maskrcnn_jax.artifacts import artifact
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import (
    detectron1,
    detectron2,
    download,
    files,
    hub,
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

FAMILIES = (own, torchvision, detectron2, mmdetection, detectron1)
RELEASED = {"COCO_V1": "maskrcnn_resnet50_fpn", "V2_COCO_V1": "maskrcnn_resnet50_fpn_v2"}


class Origin(NamedTuple):
    """The library of a file, and what the file holds beside the variables of our model."""

    family: ModuleType  # One of `FAMILIES`.
    is_bgr: bool  # The order of the channels that the stem of the file reads; ours is RGB.
    extras: dict[str, np.ndarray]  # Batch counters; the arrays that are settings here, if there.


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


def is_released(name: str) -> bool:
    """Whether a name stands for released weights instead of a path."""
    return name in RELEASED or zoo.is_name(name) or hub.is_name(name)


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
        weights: A weight file, a run directory, a released name, or hf://OWNER/NAME.
        released: Functions of torchvision by the released names of their weights.
        preset: As in `loading.load`.
        channel_order: As in `loading.load`.

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
    elif hub.is_name(str(weights)):
        path = hub.fetch(str(weights))
    else:
        path = Path(weights)
    if path.exists():
        return _read_run(path) if path.is_dir() else _read_file(path, preset, channel_order)
    if "://" in str(weights):
        raise FileNotFoundError(f"{weights} is an address: download the weight file first")
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
        is_setting = family is detectron2 and name in (*detectron2.PIXELS, detectron2.FEDERATED)
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
        is_bgr = presets.reads_bgr(config.model)
        order = "BGR" if is_bgr else "RGB"
        whose = f"presets.{preset}" if isinstance(preset, str) else "the given settings"
        reasons = (f"{order} pixels and all rules of {whose}",)
    if channel_order is not None:
        is_bgr, reasons = channel_order == "BGR", (*reasons, f"{channel_order} channels, as given")
    for stem in source.layout.STEMS if is_bgr else ():
        if stem in source.arrays and source.arrays[stem].ndim == 4:
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
