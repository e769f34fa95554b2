"""Values that a config may have, and that it may not."""

from pathlib import Path

import pytest

from maskrcnn_jax.cli import config_file
from maskrcnn_jax.config import Config
from maskrcnn_jax.config_check import check

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
        ("data.test_buckets", (), "data.test_buckets must be pairs of multiples of 32"),
        ("data.buckets", ((64, 100),), "data.buckets must be pairs of multiples of 32"),
        ("data.buckets", (64, 96), "data.buckets must be of type"),
    ],
)
def test_what_is_impossible_is_told_by_field(field, value, message):
    with pytest.raises(ValueError, match=message):
        check(changed(field, value))


def changed(field, value):
    config = Config()
    *parents, name = field.split(".")
    settings = config
    for parent in parents:
        settings = getattr(settings, parent)
    setattr(settings, name, value)
    return config
