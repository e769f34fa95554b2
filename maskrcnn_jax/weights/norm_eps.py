"""Chooses the eps of the norms of each part of a model, and gives the reason."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from maskrcnn_jax.weights import download

DEFAULT = ResNetConfig().norm_eps
# torchvision trained the frozen batch norm of these models with an eps of 0.
TRAINED_WITHOUT = ("maskrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn")


class NormEps(NamedTuple):
    """The eps of the norms of a part, and the reason for the choice."""

    value: float
    reason: str


def choose(
    model: ModelConfig,
    *,
    given: float | None = None,
    config: ModelConfig | None = None,
    carried: ModelConfig | None = None,
    digest: str | None = None,
) -> dict[str, NormEps]:
    """Chooses the eps of each part of the model that has norms.

    The first of these that applies is chosen:

    1. ``given``;
    2. the eps in ``config``, if it is not the default of 1e-5;
    3. the eps in ``carried``, if the part has the same kind of norm there;
    4. 0 for frozen batch norm, if the file is a release that was trained with 0;
    5. 1e-5.

    Trained norm does not take the eps of frozen norm, which may be 0: the variance of a batch may
    be 0 too.

    Args:
        model: The config of the model to load into.
        given: The caller's eps for all parts, or None.
        config: The caller's config of the model, or None.
        carried: The config stored with the weights, or None.
        digest: sha256 of the weight file, or None.

    Returns:
        The eps by the name of the part.
    """
    found = {}
    for name in ("backbone", "fpn", "box_head", "mask_head"):
        part, source = getattr(model, name), getattr(carried, name, None)
        if getattr(part, "norm", "none") == "none":
            continue
        if given is not None:
            found[name] = NormEps(given, "as given")
        elif config is not None and part.norm_eps != DEFAULT:
            found[name] = NormEps(part.norm_eps, "as the configuration says")
        elif source is not None and source.norm == part.norm:
            found[name] = NormEps(source.norm_eps, "as the weights say")
        elif part.norm == "layer":
            found[name] = NormEps(part.norm_eps, "Detectron2's for layer norm")
        elif part.norm == "frozen_batch" and (function := _released(digest)):
            found[name] = NormEps(0.0, f"as the released {function} was trained")
        else:
            found[name] = NormEps(DEFAULT, "PyTorch's default")
    return found


def replace(model: ModelConfig, eps: dict[str, NormEps]) -> ModelConfig:
    """Returns a copy of the config with the given eps in each part."""
    parts = {}
    for name, (value, _) in eps.items():
        parts[name] = dataclasses.replace(getattr(model, name), norm_eps=value)
    return dataclasses.replace(model, **parts)


def _released(digest: str | None) -> str | None:
    """Returns the function in `TRAINED_WITHOUT` whose released file has this digest, if any."""
    for function in TRAINED_WITHOUT:
        # The stem of a released file ends in the first digits of its sha256.
        start = Path(download.DETECTORS[function]).stem.rpartition("-")[2]
        if digest is not None and digest.startswith(start):
            return function
    return None
