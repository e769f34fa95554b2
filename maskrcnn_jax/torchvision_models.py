"""Detectors with the names of torchvision's functions for Mask R-CNN and Faster R-CNN."""

import sys
from pathlib import Path

from maskrcnn_jax import execution, presets, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.weights import loading, reading, torchvision
from maskrcnn_jax.weights.norm_eps import choose as choose_eps
from maskrcnn_jax.weights.norm_eps import replace as replace_eps
from maskrcnn_jax.weights.report import describe


def maskrcnn_resnet50_fpn(
    weights: str | Path | None = None,
    num_classes: int | None = None,
    *,
    norm_eps: float | None = None,
    seed: int = 0,
) -> Detector:
    """Mask R-CNN with a ResNet-50-FPN backbone (He et al., 2017), as in torchvision.

    The batch norm is frozen, unless the file has batch counters, which only trained batch norm has.
    Without weights, the batch norm and all stages of the backbone are trainable.

    Args:
        weights: "COCO_V1" or "DEFAULT" for torchvision's released weights, downloaded once; the
            path of a file (.pth, .safetensors or our .npz) or of a run directory; or None for
            random weights.
        num_classes: Number of classes, including background; by default that of the weights. For
            another number, the layers with one output per class are initialised at random, and a
            report on stderr names them.
        norm_eps: The eps of all batch norms. By default that stored in an .npz of ours, 0 for the
            released file, which was trained with 0, and 1e-5 otherwise.
        seed: Seed of the random values.

    Raises:
        OSError: The file does not exist or cannot be downloaded.
        ValueError: Both weights and num_classes are None; or the weights are broken or of another
            architecture. The message names the file, the architecture it seems to have, and every
            array that is wrong.
    """
    return _detector("maskrcnn_resnet50_fpn", weights, num_classes, norm_eps, seed)


def maskrcnn_resnet50_fpn_v2(
    weights: str | Path | None = None,
    num_classes: int | None = None,
    *,
    norm_eps: float | None = None,
    seed: int = 0,
) -> Detector:
    """The second version: trained batch norm, and heads with more convolutions (Li et al., 2021).

    Arguments and errors as in `maskrcnn_resnet50_fpn`; the eps of the norms is 1e-5 by default.
    """
    return _detector("maskrcnn_resnet50_fpn_v2", weights, num_classes, norm_eps, seed)


def fasterrcnn_resnet50_fpn(
    weights: str | Path | None = None,
    num_classes: int | None = None,
    *,
    norm_eps: float | None = None,
    seed: int = 0,
) -> Detector:
    """Faster R-CNN with a ResNet-50-FPN backbone (Ren et al., 2015), as in torchvision.

    The predictions have no masks. Arguments and errors as in `maskrcnn_resnet50_fpn`.
    """
    return _detector("fasterrcnn_resnet50_fpn", weights, num_classes, norm_eps, seed)


def fasterrcnn_resnet50_fpn_v2(
    weights: str | Path | None = None,
    num_classes: int | None = None,
    *,
    norm_eps: float | None = None,
    seed: int = 0,
) -> Detector:
    """The second version of Faster R-CNN (Li et al., 2021), without masks.

    Arguments and errors as in `maskrcnn_resnet50_fpn`; the eps of the norms is 1e-5 by default.
    """
    return _detector("fasterrcnn_resnet50_fpn_v2", weights, num_classes, norm_eps, seed)


def _detector(
    function: str,
    weights: str | Path | None,
    num_classes: int | None,
    norm_eps: float | None,
    seed: int,
) -> Detector:
    if weights is None:
        return _random(function, num_classes, norm_eps, seed)
    source = reading.read(weights, {"COCO_V1": function, "DEFAULT": function})
    if source.config is not None:
        _check_architecture(function, source.path, source.config.model)
    loaded = loading.fit(source, num_classes=num_classes, norm_eps=norm_eps, seed=seed)
    if loaded.report.reinitialised:
        print(loaded.report, file=sys.stderr)
    return Detector.from_loaded(loaded, consume=True)


def _check_architecture(function: str, path: Path, config: ModelConfig) -> None:
    """Raises ValueError, which names the right call, unless the function builds this network."""
    found = torchvision.function_of(config)
    if found != function:
        call = f"{found}(weights=...)" if found else "Detector.from_weights(...)"
        looks = describe(config)
        raise ValueError(f"{path} does not fit {function}: it looks like {looks}; call {call}")


def _random(function: str, num_classes: int | None, norm_eps: float | None, seed: int) -> Detector:
    if num_classes is None:
        raise ValueError(
            f'{function} needs weights, "COCO_V1" or a path, or for random ones num_classes, '
            "with background"
        )
    config = Config(model=presets.PRESETS[function](num_classes))
    config.model.backbone.norm = "batch"
    config.model.backbone.frozen_stages = 0  # Random weights must not be frozen.
    eps = choose_eps(config.model, given=norm_eps)
    config.model = replace_eps(config.model, eps)
    model = MaskRCNN(config.model, config.detection, execution.choose())
    variables = training.init_variables(model, seed)
    return Detector(model, variables, Categories.numbered(num_classes - 1), config.data)
