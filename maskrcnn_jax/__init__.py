"""Mask R-CNN and Faster R-CNN in JAX and Flax, with torchvision's semantics."""

import importlib
from typing import Any

from maskrcnn_jax.xla import jaxlib_errors

__version__ = "0.1.0"

jaxlib_errors.avoid()

_EXPORTS = {
    "AugmentedDetector": "test_time_augmentation",
    "Config": "config",
    "ModelConfig": "model_config",
    "Detector": "detector",
    "MaskRCNN": "model",
    "fasterrcnn_resnet50_fpn": "torchvision_models",
    "fasterrcnn_resnet50_fpn_v2": "torchvision_models",
    "maskrcnn_resnet50_fpn": "torchvision_models",
    "maskrcnn_resnet50_fpn_v2": "torchvision_models",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, so that importing the package is fast."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'maskrcnn_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"maskrcnn_jax.{_EXPORTS[name]}"), name)
