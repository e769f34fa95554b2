"""A comparison pads, crops, measures and batches correctly."""

import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.model_config import ConvNeXtConfig, ModelConfig, ResNetConfig, ViTConfig
from maskrcnn_jax.parity import comparison


def test_images_of_one_orientation_travel_together_with_others_of_another_size():
    sizes = [(8, 12), (12, 8), (8, 9), (8, 8), (9, 8)]
    assert comparison.by_orientation(sizes) == [[3, 2, 0], [4, 1]]
    assert comparison.by_orientation(sizes[:1]) == [[0]]
    assert comparison.batches([3, 2, 0], 2) == [[3, 0], [2]]
    assert comparison.batches([5, 6, 7, 8], 2) == [[5, 7], [6, 8]]


def test_relative_error():
    theirs = np.array([1.0, -4.0], np.float32)
    assert comparison.relative_error(theirs, theirs + np.array([0, 0.5], np.float32)) == 0.125
    assert comparison.relative_error(theirs[:0], theirs[:0]) == 0
    assert np.isnan(comparison.relative_error(theirs, theirs * np.float32(np.nan)))
    with pytest.raises(ValueError, match="one shape"):
        comparison.relative_error(theirs, theirs[:1])


def test_every_stage_is_reported_in_order():
    names = list(comparison.make_stages(ModelConfig()))
    by_unit = comparison.TOLERANCES, comparison.PIXEL_TOLERANCES, comparison.PROBABILITY_TOLERANCES
    assert sorted(names) == sorted(name for tolerances in by_unit for name in tolerances)
    assert names[-len(comparison.ORDER) :] == comparison.ORDER
    faster = list(comparison.make_stages(ModelConfig(mask_head=None)))
    assert faster == names[:-3] and not any("mask" in name for name in faster)
    c4 = list(comparison.make_stages(presets.detectron2_r50_c4().model))
    assert c4[:4] == ["preprocessed image", "C4", "P4", "objectness P4"] and c4[-5:] == names[-5:]


@pytest.mark.parametrize(
    "backbone, tolerances",
    [
        (ResNetConfig(), [3e-6, 6e-6, 1.2e-5, 2e-5]),
        (ViTConfig(), [2e-5] * 4),
        (ConvNeXtConfig(), [2e-5] * 4),
    ],
)
def test_the_tolerance_of_a_map_follows_the_layers_before_it(backbone, tolerances):
    stages = comparison.make_stages(ModelConfig(backbone=backbone))
    assert [stages[name].tolerance for name in ("C2", "C3", "C4", "C5")] == tolerances
    assert stages["P2"].tolerance == 1e-5
