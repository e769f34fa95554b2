"""Checks and loads what a `Detector` is called with."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_jax import images


def load_each(several: Any, num_channels: int, dtype: str) -> Iterator[np.ndarray]:
    """Loads one image or several, one after the other, with `images.load`.

    Args:
        several: As ``images`` of `Detector.__call__`.
        num_channels: The number of channels of the model.
        dtype: ``data.image_dtype`` of the model.

    Raises:
        OSError: A path cannot be read as an image.
        ValueError: An argument is no image; the message gives its position.
    """
    for position, image in enumerate(_as_several(several)):
        try:
            yield images.load(image, num_channels, dtype)
        except ValueError as error:
            raise ValueError(f"image {position}: {error}") from error


def batches(several: Iterator[np.ndarray], count: int) -> Iterator[list[np.ndarray]]:
    """Cuts a stream of images into lists of at most ``count``."""
    while batch := list(itertools.islice(several, count)):
        yield batch


def _as_several(several: Any) -> Iterable[Any]:
    # Some of these types raise an error later, when they are loaded.
    kinds = str | os.PathLike | Image.Image | bytes | bytearray | Mapping
    if isinstance(several, kinds) or getattr(several, "ndim", 4) < 4:
        return [several]
    if not hasattr(several, "__iter__"):
        raise ValueError(
            "expected an array, a path, a Pillow image, or a list of these, "
            f"got {type(several).__name__}"
        )
    return several


def checked_threshold(threshold: float | int) -> np.float32:
    """Converts a threshold to the dtype that the model takes. Raises ValueError if not a number."""
    if not _is_scalar(threshold, "iuf"):
        raise ValueError(f"score_threshold must be a number, got {threshold!r}")
    if not threshold == threshold:
        raise ValueError("score_threshold is NaN: give a number, 0 for all detections")
    with np.errstate(over="ignore"):  # Infinity is a threshold too: nothing scores above it.
        return np.float32(threshold)


def checked_top_k(top_k: int | None, slots: int) -> int:
    """Returns the number of detections to keep, by default all slots.

    Raises ValueError unless ``top_k`` is a whole number from 1 to ``slots``.
    """
    if top_k is not None and not _is_scalar(top_k, "iu"):
        raise ValueError(f"top_k must be a whole number, got {top_k!r}")
    if top_k is not None and not 1 <= top_k <= slots:
        raise ValueError(
            f"top_k must be from 1 to {slots}, the model's detection.num_detections, got {top_k}; "
            "for more, build the model with more of them"
        )
    return slots if top_k is None else top_k


def _is_scalar(value: Any, kinds: str) -> bool:
    """Tells whether a value is a single number of Python, NumPy or JAX, with a NumPy dtype kind."""
    array = np.asarray(value)
    return array.ndim == 0 and array.dtype.kind in kinds
