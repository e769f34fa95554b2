"""What our weight files say of their model, beside the arrays: its configuration, and what its labels mean.

Both are JSON in the file's metadata, which files of others do not have. The configuration is that of the network, and
of the data the sizes at which it is tested.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from maskrcnn_jax import config_check
from maskrcnn_jax.config import Config, from_dict, to_dict
from maskrcnn_jax.data.categories import Categories

CONFIG = "maskrcnn_jax.config"
CATEGORIES = "maskrcnn_jax.categories"
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
        ValueError: One of the two is not what `encode` writes; the message names it, and the field that is wrong.
    """
    config = _parse(metadata, CONFIG, _config)
    return config, _parse(metadata, CATEGORIES, _categories)


def _parse(metadata: Mapping[str, str], key: str, build: Any) -> Any:
    if key not in metadata:
        return None
    try:
        return build(json.loads(metadata[key]))
    except ValueError as error:
        raise ValueError(f"its metadata {key!r} is broken: {error}") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its metadata {key!r} is broken: {error!r}") from error


def _categories(values: Any) -> Categories:
    categories = Categories.from_json(values)
    if not all(type(i) is int for i in categories.ids) or not all(isinstance(name, str) for name in categories.names):
        raise ValueError("expected numbers as ids and text as names")
    return categories


def _config(values: Any) -> Config:
    config = from_dict(Config, values)
    config_check.check(config)
    return config
