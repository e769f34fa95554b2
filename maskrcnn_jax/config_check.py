"""What a config must satisfy for a run to go well, told before the work begins and by the names of the fields."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any

from maskrcnn_jax.config import Config

_NORMS = ("frozen_batch", "batch", "group")
_CHOICES = {
    "model.depth": (18, 34, 50, 101, 152),
    "model.norm": _NORMS,
    "model.fpn_norm": ("none", *_NORMS),
    "model.box_head_norm": ("none", *_NORMS),
    "model.mask_head_norm": ("none", *_NORMS),
    "model.dtype": ("float32", "bfloat16"),
    "data.source": ("coco", "tfds", "shapes"),
    "data.mask_store": ("crop", "full"),
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.schedule": ("steps", "cosine"),
}
# Fields of these names, wherever they are.
_AT_LEAST_ONE = ("batch_size", "test_batch_size", "num_microbatches", "space", "num_threads", "num_detections")
_FRACTIONS = ("score_threshold", "nms_threshold", "positive_iou", "negative_iou", "horizontal_flip", "vertical_flip")


def check(config: Config) -> None:
    """Raises ValueError, with the field, what it was given and what it may be, unless every value is possible."""
    for name, value, hint in _fields(config):
        _check_type(name, value, hint)
        last = name.rpartition(".")[2]
        if value not in _CHOICES.get(name, (value,)):
            raise ValueError(f"{name} must be one of {', '.join(map(str, _CHOICES[name]))}; got {value!r}")
        if last in _AT_LEAST_ONE and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        if last in _FRACTIONS and not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value}")
    _check_sizes(config)


def _check_sizes(config: Config) -> None:
    for name in ("buckets", "test_buckets"):
        buckets = getattr(config.data, name)
        if not buckets or any(side < 1 or side % 32 for bucket in buckets for side in bucket):
            raise ValueError(f"data.{name} must be pairs of multiples of 32, (height, width), got {buckets}")
    if config.model.num_classes < 2:
        raise ValueError(f"model.num_classes must be at least 2, with background, got {config.model.num_classes}")
    if len(config.model.rpn.anchor_sizes) != 5:
        raise ValueError(f"model.rpn.anchor_sizes must be five, for P2 to P6, got {config.model.rpn.anchor_sizes}")
    if config.num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {config.num_steps}")


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, value and type of every field, those of nested settings by a path such as ``model.rpn.num_samples``."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            _check_type(f"{prefix}{field.name}", value, hints[field.name])
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, hints[field.name]


def _check_type(name: str, value: Any, hint: Any) -> None:
    if not _is_of(value, hint):
        expected = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
        raise ValueError(f"{name} must be of type {expected}, got {value!r}")


def _is_of(value: Any, hint: Any) -> bool:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_is_of(value, argument) for argument in arguments)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple | list):
            return False
        arguments = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(arguments) and all(map(_is_of, value, arguments))
    if hint in (int, float):  # Whole numbers will do for others, truth values for neither.
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)
