"""Values that a config may have, and that it may not."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from maskrcnn_jax import config_check
from maskrcnn_jax.cli import config_file
from maskrcnn_jax.config import Config, ModelConfig
from maskrcnn_jax.config_check import check
from maskrcnn_jax.model import MaskRCNN

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_own_configs_are_possible(path):
    check(config_file.read(path))


@pytest.mark.parametrize(
    "field, value",
    [
        ("num_devices", 2),
        ("optimizer.learning_rate", 1),
        ("data.buckets", [[64, 96]]),
        ("model.roi.max_mask_samples", None),
        ("model.detection.score_threshold", 0),
        ("model.roi.sampling_ratio", 0),
        ("model.roi.num_samples", 4),
        ("model.roi.pooling", "pool"),
        ("model.box_head_layers", 0),
        ("model.fpn_norm", "frozen_batch"),
        ("data.crop_size", 1),
        ("optimizer.average_decay", 1.0),
        ("optimizer.decay_steps", ()),
        ("keep_best", 0),
        ("num_steps", 0),
        ("seed", 2**31 - 1),
    ],
)
def test_every_way_to_write_a_value(field, value):
    check(changed(field, value))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("model.depth", "50", "model.depth must be of type int, got '50'"),
        ("model.depth", 50.0, "model.depth must be of type int"),
        ("model.depth", 51, "model.depth must be one of 18, 34"),
        ("model.rematerialise", 1, "model.rematerialise must be of type bool"),
        ("batch_size", True, "batch_size must be of type int"),
        ("num_devices", "all", r"num_devices must be of type int \| None"),
        ("model.rpn", None, "model.rpn must be of type RPNConfig"),
        ("model.rpn.box_weights", (1.0, 1.0), "model.rpn.box_weights must be of type tuple"),
        ("model.rpn.nms_threshold", 70.0, "model.rpn.nms_threshold must be from 0 to 1"),
        ("model.detection.num_detections", 0, "model.detection.num_detections must be at least 1"),
        ("model.num_classes", 1, "model.num_classes must be at least 2, with background"),
        ("data.test_buckets", (), "data.test_buckets must not be empty"),
        ("data.short_sides", (), "data.short_sides must not be empty"),
        ("data.short_sides", (800, 0), r"data.short_sides must be at least 1, got \(800, 0\)"),
        ("model.rpn.aspect_ratios", (), "model.rpn.aspect_ratios must not be empty"),
        ("model.rpn.anchor_sizes", (32,), "model.rpn.anchor_sizes must be five, for P2 to P6"),
        ("model.rpn.smooth_l1_beta", 0.0, "model.rpn.smooth_l1_beta must be above 0"),
        ("model.rpn.num_samples", 1, "model.rpn.num_samples times .*positive_fraction must be at least 1"),
        ("model.roi.num_samples", 0, "model.roi.num_samples must be at least 1"),
        ("model.roi.num_samples", 3, "model.roi.num_samples times .*positive_fraction .*got 3 times 0.25"),
        ("model.roi.max_mask_samples", 0, "model.roi.max_mask_samples must be at least 1, or None"),
        ("model.roi.sampling_ratio", 1000, "model.roi.sampling_ratio must be from 0 to 8"),
        ("model.roi.pooling", "x", "model.roi.pooling must be one of align, pool; got 'x'"),
        ("model.rpn.gradient_form", "x", "model.rpn.gradient_form must be one of auto, windows, maps"),
        ("model.roi.align_form", "x", "model.roi.align_form must be one of auto, gather, einsum"),
        ("model.stem_channels", 0, "model.stem_channels must be at least 1"),
        ("model.fpn_channels", 10**30, "model.fpn_channels must be finite and at most 2147483647"),
        ("model.mask_head_convs", 101, "model.mask_head_convs must be from 0 to 100"),
        ("model.frozen_stages", 9, "model.frozen_stages must be from 0, for none, to 5, for all, got 9"),
        ("data.crop_size", 0, "data.crop_size must be at least 1, or None"),
        ("data.max_instances", 0, "data.max_instances must be at least 1"),
        ("data.mask_size", 0, "data.mask_size must be at least 1"),
        ("data.mask_size", 128, "data.mask_size must not be a multiple of 32"),
        ("optimizer.momentum", 1.0, "optimizer.momentum must be at least 0 and below 1"),
        ("optimizer.average_decay", 5.0, "optimizer.average_decay must be from 0 to 1, or None"),
        ("optimizer.max_gradient_norm", 0.0, "optimizer.max_gradient_norm must be above 0, or None"),
        ("optimizer.max_gradient_norm", math.inf, "optimizer.max_gradient_norm must be finite"),
        ("keep_checkpoints", 0, "keep_checkpoints must be at least 1"),
        ("data.buckets", ((64, 100),), "data.buckets must be pairs of multiples of 32"),
        ("data.buckets", (64, 96), "data.buckets must be of type"),
    ],
)
def test_what_is_impossible_is_told_by_field(field, value, message):
    with pytest.raises(ValueError, match=message):
        check(changed(field, value))


def numbers(settings, prefix=""):
    """Every field that is a number or holds some: its path, and its value or, if that is None, 1."""
    for field in dataclasses.fields(settings):
        value, path = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{path}.")
        elif ("int" in str(field.type) or "float" in str(field.type)) and not isinstance(value, bool):
            yield path, 1 if value is None else value


@pytest.mark.parametrize("field, value", [pytest.param(*x, id=x[0]) for x in numbers(Config())])
def test_every_number_has_a_range(field, value):
    def each(number, value):
        return tuple(each(number, part) for part in value) if isinstance(value, tuple) else number

    check(changed(field, value))
    if field != "model.image_mean":
        with pytest.raises(ValueError, match=f"^{field} must be"):
            check(changed(field, each(-1, value)))
    if isinstance(value, float):
        with pytest.raises(ValueError, match=f"^{field} must be"):
            check(changed(field, math.nan))


def test_all_names_with_a_range_are_fields():
    assert set(config_check._RANGES) <= {path.rpartition(".")[2] for path, _ in numbers(Config())}


def test_whole_masks_have_no_size_of_their_own():
    config = changed("data.mask_store", "full")
    config.data.mask_size = 128
    check(config)


@pytest.mark.parametrize(
    "norm, width",
    [("norm", "stem_channels"), ("fpn_norm", "fpn_channels"), ("mask_head_norm", "mask_head_channels")],
)
def test_group_norm_needs_widths_that_groups_divide(norm, width):
    config = changed(f"model.{norm}", "group")
    check(config)
    setattr(config.model, width, 48)
    with pytest.raises(ValueError, match=f'model.{width} must be a multiple of 32, since model.{norm} is "group"'):
        check(config)


def test_the_width_of_no_convolutions_does_not_matter():
    config = changed("model.box_head_norm", "group")
    config.model.box_head_channels = 48
    check(config)


def test_every_part_may_have_a_frozen_norm():
    norms = dict.fromkeys(("fpn_norm", "box_head_norm", "mask_head_norm"), "frozen_batch")
    model = ModelConfig(depth=18, stem_channels=4, fpn_channels=8, box_head_convs=1, **norms)
    check(Config(model=model))
    images, sizes = jnp.zeros((1, 64, 64, 3)), jnp.full((1, 2), 64)
    variables = jax.eval_shape(MaskRCNN(model).init, jax.random.key(0), images, sizes)
    assert "batch_stats" not in variables
    assert {"fpn", "box_head", "mask_head", "backbone"} == set(variables["constants"])


def changed(field, value):
    config = Config()
    *parents, name = field.split(".")
    settings = config
    for parent in parents:
        settings = getattr(settings, parent)
    setattr(settings, name, value)
    return config
