"""What our weight files say of their model, beside the arrays: its configuration, and what its labels mean.

Both are JSON in the file's metadata, which files of others do not have. The configuration is that of the network, and
of the data the sizes at which it is tested.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from maskrcnn_jax.config import Config, ModelConfig, from_dict, to_dict
from maskrcnn_jax.data.categories import Categories

CONFIG = "maskrcnn_jax.config"
CATEGORIES = "maskrcnn_jax.categories"
COUNTS = ("rpn_head_convs", "box_head_convs", "box_head_layers", "mask_head_convs")
MAX_COUNT = 100  # Layers; a broken file must not make us list a billion names.
SIZES = ("test_short_side", "test_max_long_side", "test_buckets")


def encode(config: Config, categories: Categories | None) -> dict[str, str]:
    """Text by key, for `files.write`. Where the backbone came from is left out: it is a path of somebody's machine."""
    model = dataclasses.replace(config.model, backbone_weights=None)
    described = {"model": to_dict(model), "data": {name: getattr(config.data, name) for name in SIZES}}
    metadata = {CONFIG: json.dumps(described)}
    if categories is not None:
        metadata[CATEGORIES] = json.dumps(categories.to_json())
    return metadata


def decode(metadata: Mapping[str, str]) -> tuple[Config | None, Categories | None]:
    """What `encode` was given, None for what the file does not say.

    Raises:
        ValueError: One of the two is not what `encode` writes.
    """
    config = _parse(metadata, CONFIG, _config)
    return config, _parse(metadata, CATEGORIES, _categories)


def _parse(metadata: Mapping[str, str], key: str, build: Any) -> Any:
    if key not in metadata:
        return None
    try:
        return build(json.loads(metadata[key]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its metadata {key!r} is broken: {error!r}") from error


def _categories(values: Any) -> Categories:
    categories = Categories.from_json(values)
    if not all(type(i) is int for i in categories.ids) or not all(isinstance(name, str) for name in categories.names):
        raise ValueError("expected numbers as ids and text as names")
    return categories


def _config(values: Any) -> Config:
    config = from_dict(Config, values)
    _check_types(config.model, ModelConfig())
    _check_types(config.data, Config().data)
    for name in COUNTS:
        if not 0 <= getattr(config.model, name) <= MAX_COUNT:
            raise ValueError(f"{name} is {getattr(config.model, name)}, expected 0 to {MAX_COUNT}")
    return config


def _check_types(settings: Any, defaults: Any) -> None:
    """Raises ValueError where a value is of another kind than the default; a number where there is none yet will do."""
    for name in settings.__dataclass_fields__:
        value, default = getattr(settings, name), getattr(defaults, name)
        if dataclasses.is_dataclass(default):
            _check_types(value, default)
        elif not isinstance(value, _kinds(default)):
            raise ValueError(f"{name} is {value!r}")


def _kinds(default: Any) -> tuple[type, ...]:
    if default is None:
        return (type(None), int, float, str)
    return (int, float) if type(default) is float else (type(default),)
