"""Code of a user, which `make lint` checks with mypy: public names have types of their own.

No test runs it. `assert_type` fails if a public name is of type Any, for which mypy checks nothing.
"""

from typing import Any, assert_type

import numpy as np
from PIL import Image

import maskrcnn_jax
from maskrcnn_jax import (
    AugmentedDetector,
    Config,
    Detector,
    MaskRCNN,
    ModelConfig,
    execution,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
    presets,
    visualize,
)


def detect() -> list[dict[str, Any]]:
    """Detects objects in images of all kinds."""
    detector = maskrcnn_resnet50_fpn("COCO_V1")
    assert_type(detector, Detector)
    assert_type(maskrcnn_resnet50_fpn_v2(num_classes=2), Detector)
    assert_type(fasterrcnn_resnet50_fpn(), Detector)
    assert_type(fasterrcnn_resnet50_fpn_v2(seed=1), Detector)
    found = detector("photo.jpg", score_threshold=0.5, masks="cropped")
    assert_type(found, list[dict[str, Any]])
    pixels = np.zeros((60, 80, 3), np.uint8)
    (several,) = AugmentedDetector(detector, scales=(1.0,))([pixels, "photo.jpg"], top_k=3)
    drawn = visualize.draw(pixels, several["boxes"], several["labels"], several["scores"])
    Image.fromarray(drawn).save("drawn.png")
    return found


def build() -> MaskRCNN:
    """Builds a model from settings, which are dataclasses with plain types."""
    config = Config(model=ModelConfig(num_classes=3), num_steps=100)
    assert_type(config, Config)
    assert_type(config.model.rpn.num_samples, int)
    assert_type(config.optimizer.learning_rate, float)
    assert_type(presets.detectron2_r50_fpn(), Config)
    assert_type(maskrcnn_jax.__version__, str)
    model = MaskRCNN(config.model, config.detection, execution.choose(config.execution))
    assert_type(model.config, ModelConfig)
    return model
