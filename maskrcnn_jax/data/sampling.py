"""How often training sees each image, for data sets in which some classes are rare."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from maskrcnn_jax.config import DataConfig


def expected(
    labels: Sequence[Int[np.ndarray, " _"]], config: DataConfig
) -> Float[np.ndarray, " n"] | None:
    """How often each image is expected in an epoch, by ``config.sampling``.

    Args:
        labels: The labels of the objects of every image, from 1.
        config: Gives ``sampling`` and ``repeat_threshold``.

    Returns:
        A number for every image; None if all are seen equally often.
    """
    if config.sampling == "repeat_factor":
        return repeat_factors(labels, config.repeat_threshold)
    return class_balanced(labels) if config.sampling == "class_balanced" else None


def repeat_factors(
    labels: Sequence[Int[np.ndarray, " _"]], threshold: float
) -> Float[np.ndarray, " n"]:
    """Repeat factors of LVIS (Gupta et al., 2019, appendix B.2).

    A class that occurs in the share f of the images has the factor ``max(1, sqrt(threshold / f))``.
    An image has the largest factor of its classes; without objects it has 1.

    Args:
        labels: The labels of the objects of every image, from 1.
        threshold: The share of images below which a class is rare. LVIS takes 0.001.
    """
    classes, share = _occurrences(labels)
    factors = np.maximum(1, np.sqrt(threshold / np.maximum(share / len(labels), 1e-12)))
    return np.array([factors[own].max(initial=1) for own in classes], np.float64)


def class_balanced(labels: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, " n"]:
    """Expected counts if each draw takes a class, and then an image with it, both uniformly.

    Images without objects count as a class of their own. The mean of the counts is 1.

    Args:
        labels: The labels of the objects of every image, from 1.
    """
    classes, share = _occurrences([x if len(x) else np.zeros(1, int) for x in labels])
    inverse = 1 / np.maximum(share, 1)
    drawn = np.array([inverse[own].sum() for own in classes], np.float64)
    return drawn * len(labels) / max(np.count_nonzero(share), 1)


def _occurrences(
    labels: Sequence[Int[np.ndarray, " _"]],
) -> tuple[list[Int[np.ndarray, " _"]], Int[np.ndarray, " c"]]:
    """The classes of every image, each once, and the number of images by class."""
    classes = [np.unique(own).astype(int) for own in labels]
    return classes, np.bincount(np.concatenate([*classes, np.zeros(0, int)]))


def class_frequencies(
    labels: Sequence[Int[np.ndarray, " _"]], num_classes: int
) -> tuple[float, ...]:
    """The number of images with each class, for `BoxHeadConfig.class_frequencies`.

    Args:
        labels: The labels of the objects of every image, from 1.
        num_classes: With background, which is not counted.
    """
    _, images = _occurrences(labels)
    counts = np.zeros(num_classes, int)
    counts[: len(images)] = images
    return tuple(map(float, counts[1:]))


def length(images: Int[np.ndarray, " n"], repeats: Float[np.ndarray, " _"] | None) -> int:
    """The number of images of a cycle: the sum of the repeats, rounded, and at least 1.

    It is 0 without images.
    """
    if repeats is None or not len(images):
        return len(images)
    return max(math.floor(repeats[images].sum() + 0.5), 1)


def rounded(repeats: Float[np.ndarray, " n"], random: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Rounds the repeats of one cycle at random to whole numbers, whose sum is `length`.

    Each is rounded down or up, and its expectation is the repeat, up to the rounding of the sum.
    A random order and one common offset do it (systematic sampling): an image takes the whole
    numbers that its part of the cumulative sum holds.
    """
    if not len(repeats):
        return np.zeros(0, int)
    total = max(math.floor(repeats.sum() + 0.5), 1)
    order = random.permutation(len(repeats))
    edges = np.concatenate([np.zeros(1), np.cumsum(repeats[order])]) * (total / repeats.sum())
    edges[-1] = total  # Exactly.
    counts = np.empty(len(repeats), int)
    counts[order] = np.diff(np.floor(edges + random.random()))
    return counts
