"""torchvision's two Mask R-CNNs, by torchvision's names: weights in, a detector out."""

import sys
from pathlib import Path

from maskrcnn_jax import training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.weights import architecture, loading


def maskrcnn_resnet50_fpn(
    weights: str | Path | None = None,
    num_classes: int | None = None,
    *,
    norm_eps: float | None = None,
    seed: int = 0,
) -> Detector:
    """Mask R-CNN with a ResNet-50-FPN backbone (He et al., 2017), as torchvision's function of this name.

    Its batch norm is frozen, unless the file counts batches, which marks one that was trained. Without weights it
    trains, and so do all stages of the backbone.

    Args:
        weights: "COCO_V1" for the weights that torchvision released, which are downloaded once; or the path of a file
            (.pth, .safetensors or our .npz) or run directory; or None for random ones.
        num_classes: Background included; by default that of the weights. If it is another than theirs, the layers with
            an output for each class start from random values, which is reported on stderr.
        norm_eps: Of batch norm. By default 0 for the released file, which was trained so, else 1e-5, or what a file of
            ours says.
        seed: Of the random values.

    Raises:
        OSError: No such file, or it cannot be downloaded.
        ValueError: Neither weights nor num_classes; or weights that are broken or of another architecture. The message
            names the file, what it looks like, and every array that is wrong.
    """
    return _detector("maskrcnn_resnet50_fpn", weights, num_classes, norm_eps, seed)


def maskrcnn_resnet50_fpn_v2(
    weights: str | Path | None = None,
    num_classes: int | None = None,
    *,
    norm_eps: float | None = None,
    seed: int = 0,
) -> Detector:
    """The second version, with trained batch norm everywhere and heads with more convolutions (Li et al., 2021).

    Arguments and errors as in `maskrcnn_resnet50_fpn`; the eps of its norms is 1e-5.
    """
    return _detector("maskrcnn_resnet50_fpn_v2", weights, num_classes, norm_eps, seed)


def _detector(
    function: str, weights: str | Path | None, num_classes: int | None, norm_eps: float | None, seed: int
) -> Detector:
    if weights is None:
        return _random(function, num_classes, norm_eps, seed)
    source = loading.read(weights, {"COCO_V1": function})
    if source.config is not None and (found := architecture.builder(source.config.model)) != function:
        call = f"{found}(weights=...)" if found else "Detector.from_weights(...)"
        looks = architecture.describe(source.config.model)
        raise ValueError(f"{source.path} does not fit {function}: it looks like {looks}; call {call}")
    loaded = loading.fit(source, num_classes=num_classes, norm_eps=norm_eps, seed=seed)
    if loaded.report.reinitialised:
        print(loaded.report, file=sys.stderr)
    return Detector.from_loaded(loaded)


def _random(function: str, num_classes: int | None, norm_eps: float | None, seed: int) -> Detector:
    if num_classes is None:
        raise ValueError(
            f'{function} needs weights, "COCO_V1" or a path, or for random ones num_classes, with background'
        )
    config = Config(model=architecture.BUILDERS[function](num_classes))
    config.model.norm = "batch"
    config.model.frozen_stages = 0  # Nothing random should stay as it is.
    if norm_eps is not None:
        config.model.norm_eps = norm_eps
    model = MaskRCNN(config.model)
    variables = training.init_variables(model, seed)
    return Detector(model, variables, Categories.numbered(num_classes - 1), config.data)
