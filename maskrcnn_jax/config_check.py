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
    "model.roi.pooling": ("align", "pool"),
    "model.rpn.gradient_form": ("auto", "windows", "maps"),
    "model.roi.align_form": ("auto", "gather", "einsum"),
    "data.source": ("coco", "tfds", "shapes"),
    "data.mask_store": ("crop", "full"),
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.schedule": ("steps", "cosine"),
}
# What numbers may be, by the names of their fields, wherever they are. In a tuple it holds for each of them.
_RANGES = {
    name: (words, holds)
    for words, holds, names in (
        (
            "at least 1",
            lambda x: x >= 1,
            "batch_size test_batch_size num_devices space num_microbatches keep_checkpoints num_threads num_samples "
            "max_mask_samples train_num_candidates train_num_proposals test_num_candidates test_num_proposals "
            "num_detections box_resolution mask_resolution stem_channels fpn_channels box_head_channels "
            "box_head_features mask_head_channels short_sides max_long_side test_short_side test_max_long_side "
            "crop_size max_instances mask_size shapes_num_train shapes_num_val",
        ),
        (
            "at least 0",
            lambda x: x >= 0,
            "seed num_steps log_every evaluate_every save_every keep_best min_box_size norm_eps learning_rate "
            "weight_decay warmup_steps decay_steps decay_factor",
        ),
        (
            "above 0",
            lambda x: x > 0,
            "anchor_sizes aspect_ratios box_weights smooth_l1_beta image_std max_gradient_norm",
        ),
        (
            "from 0 to 1",
            lambda x: 0 <= x <= 1,
            "score_threshold nms_threshold positive_iou negative_iou horizontal_flip vertical_flip warmup_factor "
            "average_decay",
        ),
        ("above 0 and at most 1", lambda x: 0 < x <= 1, "positive_fraction"),
        ("at least 0 and below 1", lambda x: 0 <= x < 1, "momentum"),
        ("from 0, for none, to 5, for all", lambda x: 0 <= x <= 5, "frozen_stages"),
        ("at least 2, with background", lambda x: x >= 2, "num_classes"),
        ("at least 32", lambda x: x >= 32, "shapes_image_size"),
        # More would take minutes or more to trace, and a config may come from a weight file of somebody else's.
        ("from 0 to 100", lambda x: 0 <= x <= 100, "rpn_head_convs box_head_convs box_head_layers mask_head_convs"),
        ("from 0 to 8", lambda x: 0 <= x <= 8, "sampling_ratio"),
    )
    for name in names.split()
}
_NOT_EMPTY = ("data.short_sides", "data.buckets", "data.test_buckets", "model.rpn.aspect_ratios")
_LARGEST_INT, _LARGEST_FLOAT = 2**31 - 1, 3.4028235e38  # Of 32 bits, as on the devices.
_NUM_GROUPS = 32  # Of group norm.
_HEADS = ("box_head", "mask_head")  # That have norms if they have convolutions.


def check(config: Config) -> None:
    """Raises ValueError, with the field, what it was given and what it may be, unless every value is possible."""
    for name, value, hint in _fields(config):
        check_type(name, value, hint)
        if value not in _CHOICES.get(name, (value,)):
            raise ValueError(f"{name} must be one of {', '.join(map(str, _CHOICES[name]))}; got {value!r}")
        if name in _NOT_EMPTY and not value:
            raise ValueError(f"{name} must not be empty, got {value}")
        _check_range(name, value, hint)
    _check_data(config)
    _check_network(config)


def _check_range(name: str, value: Any, hint: Any) -> None:
    """Raises ValueError unless every number of a value is one that the field can have, and a device."""
    words, holds = _RANGES.get(name.rpartition(".")[2], ("", lambda x: True))
    or_none = ", or None" if _is_of(None, hint) else ""
    for number in _numbers(value):
        if not holds(number):
            raise ValueError(f"{name} must be {words}{or_none}, got {value}")
        largest = _LARGEST_INT if isinstance(number, int) else _LARGEST_FLOAT
        if not abs(number) <= largest:  # NaN fails this too.
            raise ValueError(f"{name} must be finite and at most {largest}{or_none}, got {value}")


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers that a value is or holds, which truth values are not."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _check_data(config: Config) -> None:
    for name in ("buckets", "test_buckets"):
        buckets = getattr(config.data, name)
        if any(side < 1 or side % 32 for bucket in buckets for side in bucket):
            raise ValueError(f"data.{name} must be pairs of multiples of 32, (height, width), got {buckets}")
    if config.data.mask_store == "crop" and config.data.mask_size % 32 == 0:
        raise ValueError(
            f"data.mask_size must not be a multiple of 32, as the sides of images are, got {config.data.mask_size}"
        )


def _check_network(config: Config) -> None:
    """That its parts fit together."""
    model = config.model
    if len(model.rpn.anchor_sizes) != 5:
        raise ValueError(f"model.rpn.anchor_sizes must be five, for P2 to P6, got {model.rpn.anchor_sizes}")
    for name, stage in (("model.rpn", model.rpn), ("model.roi", model.roi)):
        if int(stage.num_samples * stage.positive_fraction) < 1:
            raise ValueError(
                f"{name}.num_samples times {name}.positive_fraction must be at least 1, or nothing positive is "
                f"sampled; got {stage.num_samples} times {stage.positive_fraction}"
            )
    widths = {"norm": "stem_channels", "fpn_norm": "fpn_channels"}
    widths |= {f"{head}_norm": f"{head}_channels" for head in _HEADS if getattr(model, f"{head}_convs")}
    for norm, width in widths.items():
        if getattr(model, norm) == "group" and getattr(model, width) % _NUM_GROUPS:
            raise ValueError(
                f'model.{width} must be a multiple of {_NUM_GROUPS}, since model.{norm} is "group"; '
                f"got {getattr(model, width)}"
            )


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, value and type of every field, those of nested settings by a path such as ``model.rpn.num_samples``."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            check_type(f"{prefix}{field.name}", value, hints[field.name])
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, hints[field.name]


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raises ValueError, with the name of the field, unless a value is of the type that the field is declared with."""
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
