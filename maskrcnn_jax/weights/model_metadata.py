"""The description of a model in the metadata of our weight files: its config and its categories.

Both are JSON. The config holds the model, the detection settings, and the fields of the data config
that say how images are read, resized and drawn. Files of other projects have no such metadata.
"""

import json
from collections.abc import Mapping
from typing import Any

from maskrcnn_jax import config_check
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ViTConfig
from maskrcnn_jax.settings import from_dict, to_dict

CONFIG = "maskrcnn_jax.config"
CATEGORIES = "maskrcnn_jax.categories"
IMAGES = ("test_short_side", "test_max_long_side", "test_buckets", "size_rule", "resize")
IMAGES += ("image_dtype", "shown_channels", "padding")


def encode(config: Config, categories: Categories | None) -> dict[str, str]:
    """Encodes a description as metadata for `files.write`."""
    images = {name: getattr(config.data, name) for name in IMAGES}
    detection = to_dict(config.detection)
    described = {"model": to_dict(config.model), "detection": detection, "data": images}
    metadata = {CONFIG: json.dumps(described)}
    if categories is not None:
        metadata[CATEGORIES] = json.dumps(categories.to_json())
    return metadata


def decode(metadata: Mapping[str, str]) -> tuple[Config | None, Categories | None]:
    """Decodes the arguments of `encode`; each is None if the metadata lack it.

    Raises:
        ValueError: The config or the categories are invalid; the message names the key and the
            wrong field.
    """
    config = _parse(metadata, CONFIG, _config)
    return config, _parse(metadata, CATEGORIES, Categories.checked)


def _parse(metadata: Mapping[str, str], key: str, build: Any) -> Any:
    if key not in metadata:
        return None
    try:
        return build(json.loads(metadata[key]))
    except ValueError as error:
        raise ValueError(f"its metadata {key!r} is broken: {error}") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its metadata {key!r} is broken: {error!r}") from error


def _config(values: Any) -> Config:
    config = from_dict(Config, values)
    if isinstance(config.model.backbone, ViTConfig):
        config.data.buckets = config.data.test_buckets  # Its only one.
    config_check.check(config)
    return config
