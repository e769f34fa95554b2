"""The first stage of the pipeline: resizes an image, and crops it to a window in training."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from maskrcnn_jax import resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.sample import Sample, Window


def train_view(rng: np.random.Generator, example: Example, config: DataConfig) -> Sample:
    """Crops an image to a random window and resizes it to a random short side; see `draw`.

    With ``config.jitter`` it becomes a square instead; see `jittered_view`.
    """
    if config.jitter:
        return jittered_view(rng, example, config)
    window, short_side = draw(rng, example.image.shape[:2], config)
    limits = short_side, config.max_long_side
    size = resizing.resized_size((window.height, window.width), *limits, config.size_rule)
    resize_image = partial(resizing.resize_rounded, how=config.resize)
    return samples.resize(samples.crop(samples.whole(example), window), size, resize_image)


def eval_view(example: Example, config: DataConfig) -> Sample:
    """Resizes the whole image to the size of evaluation, as float32 in [0, 1]."""
    height, width = example.image.shape[:2]
    limits = config.test_short_side, config.test_max_long_side
    size = resizing.resized_size((height, width), *limits, config.size_rule)
    # The crop clips boxes, which may exceed the image in data sets other than `CocoDataset`.
    cropped = samples.crop(samples.whole(example), Window(0, 0, height, width))
    return samples.resize(cropped, size, partial(resizing.resize, how=config.resize))


def jittered_view(rng: np.random.Generator, example: Example, config: DataConfig) -> Sample:
    """Resizes an image by a random factor, and makes a square of it by cropping and padding.

    The factor 1 fits the image into the square. What exceeds the square is cropped, with one random
    number for both offsets; what is missing is filled up below and to the right. The rule is that
    of Detectron2's ``ResizeScale`` and ``FixedSizeCrop``, or of torchvision's ``ScaleJitter`` and
    ``FixedSizeCrop``: Detectron2 rounds sizes and offsets, torchvision truncates them.
    """
    factor, place = rng.uniform(*config.jitter), rng.random()
    side, original = config.jitter_side, np.array(example.image.shape[:2])
    to_whole = np.trunc if config.jitter_rule == "torchvision" else np.round
    sides = to_whole(original * (factor * side / original.max())).astype(int)
    height, width = np.maximum(sides, 1).tolist()
    resize_image = partial(resizing.resize_rounded, how=config.resize)
    resized = samples.resize(samples.whole(example), (height, width), resize_image)
    top, left = (int(to_whole(max(length - side, 0) * place)) for length in (height, width))
    window = Window(top, left, min(height, side), min(width, side))
    fill = _fill(config.jitter_fill, example.image.dtype)
    return samples.pad(samples.crop(resized, window), (side, side), fill)


def _fill(fractions: Sequence[float | int], dtype: np.dtype) -> Float[np.ndarray, " _"]:
    """Returns fractions of the full range as values of pixels; floating-point pixels end at 1."""
    if np.issubdtype(dtype, np.integer):
        largest = np.iinfo(dtype).max
        return np.rint(np.minimum(fractions, 1) * largest)
    return np.array(fractions, float)


def draw(rng: np.random.Generator, size: tuple[int, int], config: DataConfig) -> tuple[Window, int]:
    """Draws a window of an image of ``size`` (height, width), and the short side to resize it to.

    Sides longer than ``config.crop_size`` are cropped to it. The offsets are drawn even if no side
    is cropped, so that ``crop_size`` does not change the draws of short sides.
    """
    height, width = size
    if config.crop_size is not None:
        height, width = min(height, config.crop_size), min(width, config.crop_size)
    row, column = rng.random(2)
    # The draws are below 1, so all possible offsets, 0 included, are equally likely.
    top, left = int(row * (size[0] - height + 1)), int(column * (size[1] - width + 1))
    short_side = config.short_sides[int(rng.integers(len(config.short_sides)))]
    return Window(top, left, height, width), short_side
