"""Detectors with each kind of backbone, exported: the artifact finds what the detector finds."""

import dataclasses

import jax
import numpy as np
import pytest

from maskrcnn_jax.artifacts import export
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ConvNeXtConfig, FPNConfig, ResNetConfig, ViTConfig
from tests.artifacts.test_export import assert_same
from tests.conftest import QUICK_COMPILE, random_variables

GROUPS = {"groups": 32, "width_per_group": 4}
BACKBONES = {
    "resnext": ResNetConfig(depth=50, norm="group", **GROUPS),
    "convnext": ConvNeXtConfig(depths=(1, 1, 2, 1), width=32),
    "vit": ViTConfig(image_side=96, width=64, depth=3, num_heads=4, window=4, global_blocks=(2,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BACKBONES)
def test_an_artifact_finds_what_its_detector_finds(tiny, tmp_path, kind):
    config = dataclasses.replace(
        tiny.model.config,
        backbone=BACKBONES[kind],
        fpn=FPNConfig(channels=32, norm="layer", top_down=kind != "vit"),
    )
    model = MaskRCNN(config, tiny.model.detection)
    data = DataConfig(test_short_side=96, test_max_long_side=96, test_buckets=((96, 96),))
    detector = Detector(model, random_variables(model), Categories.numbered(3), data)
    export.export(detector, tmp_path / "w.npz")
    exported = Detector.from_artifact(tmp_path / "w.npz")
    for each in (detector, exported):
        each._apply = jax.jit(each.model.apply, compiler_options=QUICK_COMPILE)
    image = np.random.default_rng(0).integers(0, 256, (80, 96, 3)).astype(np.uint8)
    expected = detector(image, 0.3)
    assert len(expected[0]["boxes"]) > 3
    assert_same(exported(image, 0.3), expected, boxes=0.01, masks=1e-3, other_pixels=1e-3)
