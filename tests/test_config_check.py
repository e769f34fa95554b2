"""Possible and impossible values of a config."""

import math
from pathlib import Path

import jax
import pytest

from maskrcnn_jax import presets, settings
from maskrcnn_jax.cli import config_file
from maskrcnn_jax.config import Config
from maskrcnn_jax.config_check import check
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    CascadeConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
)
from maskrcnn_jax.variables import example_inputs
from maskrcnn_jax.weights.detectron2_config import set_field

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_own_configs_are_possible(path):
    check(config_file.read(path))


@pytest.mark.parametrize(
    "field, value",
    [
        ("execution.num_devices", 2),
        ("model.mask_head", None),
        ("model.rpn.smooth_l1_beta", 0.0),
        ("optimizer.learning_rate", 1),
        ("data.buckets", [[64, 96]]),
        ("model.mask_head.max_samples", None),
        ("detection.score_threshold", 0),
        ("model.roi.sampling_ratio", 0),
        ("model.roi.num_samples", 4),
        ("model.roi.pooling", "pool"),
        ("model.box_head.num_layers", 0),
        ("model.fpn.norm", "frozen_batch"),
        ("model.box_head.class_frequencies", [5.0] * 80),
        ("data.crop_size", 1),
        ("data.jitter", (0.1, 2.0)),
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
        ("model.backbone.depth", "50", "model.backbone.depth must be of type int, got '50'"),
        ("model.backbone.depth", 50.0, "model.backbone.depth must be of type int"),
        ("model.backbone.depth", 51, "model.backbone.depth must be one of 18, 34"),
        ("execution.rematerialise", 1, "execution.rematerialise must be of type bool"),
        ("batch_size", True, "batch_size must be of type int"),
        ("execution.num_devices", "all", r"execution.num_devices must be of type int \| None"),
        ("model.rpn", None, "model.rpn must be of type RPNConfig"),
        ("model.rpn.box_weights", (1.0, 1.0), "model.rpn.box_weights must be of type tuple"),
        ("model.rpn.nms_threshold", 70.0, "model.rpn.nms_threshold must be from 0 to 1"),
        ("detection.num_detections", 0, "detection.num_detections must be at least 1"),
        ("model.num_classes", 1, "model.num_classes must be at least 2; got 1"),
        ("data.test_buckets", (), "data.test_buckets must be not empty"),
        ("data.short_sides", (), "data.short_sides must be not empty"),
        ("data.short_sides", (800, 0), r"data.short_sides must be at least 1; got \(800, 0\)"),
        ("model.rpn.aspect_ratios", (), "model.rpn.aspect_ratios must be not empty"),
        ("model.image_mean", (), "model.image_mean must be not empty"),
        ("model.image_std", (1.0,), "model.image_mean and model.image_std must have a number"),
        ("model.rpn.anchor_sizes", (32,), "model.rpn.anchor_sizes must be five, for P2 to P6"),
        ("model.rpn.smooth_l1_beta", -1.0, "model.rpn.smooth_l1_beta must be at least 0"),
        ("model.rpn.num_samples", 1, "num_samples times .*positive_fraction must be at least 1"),
        ("model.roi.num_samples", 0, "model.roi.num_samples must be at least 1"),
        (
            "model.roi.num_samples",
            3,
            "roi.num_samples times .*positive_fraction .*got 3 times 0.25",
        ),
        (
            "model.mask_head.max_samples",
            0,
            "model.mask_head.max_samples must be at least 1, or None",
        ),
        ("model.roi.sampling_ratio", 1000, "model.roi.sampling_ratio must be from 0 to 8"),
        ("model.roi.pooling", "x", "model.roi.pooling must be one of align, pool; got 'x'"),
        (
            "execution.rpn_gradient",
            "x",
            "execution.rpn_gradient must be one of windows, maps",
        ),
        ("execution.space", 0, "execution.space must be at least 1"),
        ("execution.align_form", "x", "execution.align_form must be one of auto, gather, einsum"),
        ("model.backbone.stem_channels", 0, "model.backbone.stem_channels must be at least 1"),
        ("model.fpn.channels", 10**30, "model.fpn.channels must be finite and at most 2147483647"),
        ("model.mask_head.num_convs", 101, "model.mask_head.num_convs must be from 0 to 100"),
        ("model.backbone.frozen_stages", 9, "backbone.frozen_stages must be from 0 to 5; got 9"),
        ("model.box_head.classifier", "x", "box_head.classifier must be one of softmax, sigmoid"),
        (
            "model.box_head.federated_classes",
            50,
            "federated_classes needs model.box_head.classifier \"sigmoid\"; got 50 with 'softmax'",
        ),
        (
            "model.box_head.class_frequencies",
            (3.0,) * 81,
            "a number for each of the 80 classes of model.num_classes .* got 81 numbers",
        ),
        ("data.crop_size", 0, "data.crop_size must be at least 1, or None"),
        ("data.jitter", (0.0, 2.0), r"data.jitter must be above 0; got \(0.0, 2.0\)"),
        ("data.jitter", (2.0, 0.1), r"data.jitter must be empty or two ascending numbers; got \(2"),
        ("data.jitter", (1.0,), "data.jitter must be empty or two ascending numbers"),
        ("data.crop_fraction", (0.5,), "data.crop_fraction must be empty or two ascending numbers"),
        ("data.crop_fraction", (0.5, 1.5), "data.crop_fraction must be from 0 to 1"),
        ("data.hue", (), r"data.hue must be two ascending numbers; got \(\)"),
        ("data.contrast", (1.5, 0.5), "data.contrast must be two ascending numbers"),
        ("data.jitter_fill", (0.5, 0.5), "data.jitter_fill must be one number, or 3, one for each"),
        ("data.quarter_turn", 0.5, "data.buckets must be squares, which hold a turned image too"),
        ("data.max_instances", 0, "data.max_instances must be at least 1"),
        ("data.mask_size", 0, "data.mask_size must be at least 1"),
        ("optimizer.momentum", 1.0, "optimizer.momentum must be at least 0 and below 1"),
        ("optimizer.average_decay", 5.0, "optimizer.average_decay must be from 0 to 1, or None"),
        (
            "optimizer.max_gradient_norm",
            0.0,
            "optimizer.max_gradient_norm must be above 0, or None",
        ),
        ("optimizer.max_gradient_norm", math.inf, "optimizer.max_gradient_norm must be finite"),
        ("keep_checkpoints", 0, "keep_checkpoints must be at least 1"),
        ("data.buckets", ((64, 100),), "data.buckets must be pairs of multiples of 32"),
        ("data.buckets", (64, 96), "data.buckets must be of type"),
    ],
)
def test_what_is_impossible_is_told_by_field(field, value, message):
    with pytest.raises(ValueError, match=message):
        check(changed(field, value))


@pytest.mark.parametrize(
    "part, field, value, message",
    [
        ("backbone", "last_level", 5, "model.box_head.res5 needs model.backbone.last_level 4"),
        ("backbone", "depth", 18, "a depth of at least 50; got 4 and 18"),
        ("box_head", "num_layers", 2, "model.box_head.res5 needs model.cascade=None"),
        ("mask_head", "resolution", 14, "must be half of model.box_head.resolution.*14 and 14"),
        ("model", "fpn", FPNConfig(), "model.backbone.last_level must be 5 with model.fpn; got 4"),
    ],
)
def test_impossible_c4_networks_are_told_by_field(part, field, value, message):
    config = presets.detectron2_r50_c4()
    check(config)
    setattr(getattr(config.model, part, config.model), field, value)
    with pytest.raises(ValueError, match=message):
        check(config)


@pytest.mark.parametrize(
    "part, field, value, message",
    [
        ("backbone", "depth", 34, "model.backbone.c5_dilation must be 1 for .*; got 2 with 34"),
        ("backbone", "last_level", 4, "model.backbone.c5_dilation must be 1 for .* 50 and 4"),
        ("model", "fpn", FPNConfig(), "model.backbone.c5_dilation must be 1 with model.fpn"),
    ],
)
def test_impossible_dc5_networks_are_told_by_field(part, field, value, message):
    config = presets.detectron2_r50_dc5()
    check(config)
    setattr(getattr(config.model, part, config.model), field, value)
    with pytest.raises(ValueError, match=message):
        check(config)


@pytest.mark.parametrize(
    "rules, agnostic, message",
    [
        ({}, False, "model.box_head.class_agnostic must be True with model.cascade"),
        ({"positive_ious": (0.6,)}, True, "must have as many members.*; got 1 and 2"),
        ({"mask_heads": "each"}, True, 'model.cascade.samples must be "drawn".*; got "all"'),
        ({"positive_ious": (0.6,) * 10}, True, "model.cascade.positive_ious must be at most 9"),
        ({"positive_ious": ()}, True, "model.cascade.positive_ious must be not empty"),
        ({"average": "votes"}, True, "model.cascade.average must be one of probabilities, logits"),
    ],
)
def test_impossible_cascades_are_told_by_field(rules, agnostic, message):
    config = changed("model.cascade", CascadeConfig(**rules))
    config.model.box_head.class_agnostic = agnostic
    with pytest.raises(ValueError, match=message):
        check(config)


def is_number(field):
    """Whether a field is a number, or contains numbers."""
    hint = str(field.hint)
    return field.hint is not bool and ("int" in hint or "float" in hint)


NUMBERS = [
    pytest.param(field, id=field.name)
    for field in settings.fields(Config())
    if is_number(field) and field.name != "data.train"  # Text with numbers.
]


@pytest.mark.parametrize("field", NUMBERS)
def test_every_number_has_a_range(field):
    def each(number, value):
        return tuple(each(number, part) for part in value) if isinstance(value, tuple) else number

    pair = (1.0, 1.0) if "float" in str(field.hint) else (1,)
    value = {None: 1, (): pair}.get(field.value, field.value)
    settings.check_fields(changed(field.name, value))
    if field.name != "model.image_mean":
        with pytest.raises(ValueError, match=f"^{field.name} must be"):
            check(changed(field.name, each(-1, value)))
    if "float" in str(field.hint):
        with pytest.raises(ValueError, match=f"^{field.name} must be"):
            check(changed(field.name, each(math.nan, value)))


def test_numbers_are_found_in_all_parts():
    names = {parameter.id for parameter in NUMBERS}
    parts = {name.rpartition(".")[0] for name in names}
    heads = {"model.backbone", "model.fpn", "model.rpn", "model.roi", "model.box_head"}
    assert parts == heads | {
        "",
        "model",
        "model.mask_head",
        "detection",
        "execution",
        "data",
        "optimizer",
    }
    assert "execution.num_devices" in names and "execution.deterministic" not in names


def test_whole_masks_have_no_size_of_their_own():
    config = changed("data.mask_store", "full")
    config.data.mask_size = 128
    check(config)


@pytest.mark.parametrize(
    "part, width", [("backbone", "stem_channels"), ("fpn", "channels"), ("mask_head", "channels")]
)
def test_group_norm_needs_widths_that_groups_divide(part, width):
    config = changed(f"model.{part}.norm", "group")
    check(config)
    setattr(getattr(config.model, part), width, 48)
    message = f"model.{part}.{width} must be a multiple of 32, since model.{part}.norm is "
    with pytest.raises(ValueError, match=f'{message}"group"; got 48'):
        check(config)


def test_the_width_of_no_convolutions_does_not_matter():
    config = changed("model.box_head.norm", "group")
    config.model.box_head.channels = 48
    check(config)


def test_every_part_may_have_a_frozen_norm():
    model = ModelConfig(
        backbone=ResNetConfig(depth=18, stem_channels=4),
        fpn=FPNConfig(channels=8, norm="frozen_batch"),
        box_head=BoxHeadConfig(num_convs=1, norm="frozen_batch"),
        mask_head=MaskHeadConfig(norm="frozen_batch"),
    )
    check(Config(model=model))
    init = MaskRCNN(model).init
    variables = jax.eval_shape(init, jax.random.key(0), *example_inputs(model))
    assert "batch_stats" not in variables
    assert {"fpn", "box_head", "mask_head", "backbone"} == set(variables["constants"])


def changed(field, value):
    config = Config()
    *parents, name = field.split(".")
    part = config
    for parent in parents:
        part = getattr(part, parent)
    setattr(part, name, value)
    return config


@pytest.mark.parametrize(
    "depth, stem_channels, message",
    [
        (18, 64, "backbone.groups must be 1 for a depth of 18 or 34"),
        (50, 6, "must be a multiple of 64; got 4 times 6"),
    ],
)
def test_groups_fit_the_network(depth, stem_channels, message):
    config = Config()
    config.model.backbone = ResNetConfig(
        depth=depth, stem_channels=stem_channels, groups=32, width_per_group=4
    )
    with pytest.raises(ValueError, match=message):
        check(config)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("model.backbone.num_heads", 5, "multiple of 4 times model.backbone.num_heads; got 768"),
        ("model.backbone.global_blocks", (2, 12), r"must be below .*, 12; got \(2, 12\)"),
        ("model.backbone.image_side", 100, "image_side must be a multiple of 32"),
        ("data.test_buckets", ((800, 1344),), r"must be \(\(1024, 1024\),\), the square of"),
        ("data.test_max_long_side", 1333, "must be at most model.backbone.image_side, 1024"),
    ],
)
def test_a_vit_fits_its_square(field, value, message):
    config = presets.detectron2_vitdet_b()
    check(config)
    set_field(config, field, value)
    with pytest.raises(ValueError, match=message):
        check(config)
