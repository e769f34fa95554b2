"""The second stage of the pipeline: random transforms of a sample, each a plain function.

A transform takes a random generator and a `Sample` and returns a `Sample`. It may change pixels,
crop and resize (`sample.crop`, `sample.resize`), and drop or add objects (`sample.select`,
`masks.from_bitmap`), because slots are filled and masks are rasterised after the last transform. To
add a transform, pass it together with the standard ones:

    stages = standard(config, dataset) | {"sepia": sepia}
    train_batches(dataset, config, transforms=stages, ...)

Each transform has its own generator, seeded by its name. Adding or removing a transform therefore
does not change the random draws of the others. A transform that mixes images keeps a reference to
the data set, draws an index ``i`` and calls ``view.train_view(rng, dataset[i], config)`` to get
another sample, as `copy_paste.copy_paste` does.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import colours, view
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.copy_paste import Images, copy_paste
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.sample import Sample, Window

Transform = Callable[[np.random.Generator, Sample], Sample]


def standard(config: DataConfig, others: Images | None = None) -> dict[str, Transform]:
    """Returns the transforms of a config by name, in order of application.

    Args:
        config: Gives the probabilities. Transforms that it turns off are left out, but for flips.
        others: The images that ``config.copy_paste`` pastes from, such as the data set.

    Raises:
        ValueError: ``config.copy_paste`` is above 0, and there are no others.
    """
    stages: dict[str, Transform] = {}
    if config.crop_fraction:
        stages["crop"] = partial(crop, fractions=config.crop_fraction)
    stages["horizontal_flip"] = partial(horizontal_flip, probability=config.horizontal_flip)
    stages["vertical_flip"] = partial(vertical_flip, probability=config.vertical_flip)
    if config.quarter_turn:
        stages["quarter_turn"] = partial(quarter_turn, probability=config.quarter_turn)
    if config.copy_paste:
        if others is None:
            raise ValueError("data.copy_paste needs the data set to paste from: pass it as others")
        # The other image gets its own view, crop, flips and turn.
        prepare = partial(train_sample, config=config, transforms=dict(stages))
        stages["copy_paste"] = partial(
            copy_paste, probability=config.copy_paste, others=others, prepare=prepare
        )
    if config.distortion:
        stages["distort"] = partial(distort, config=config)
    return stages


def crop(rng: np.random.Generator, sample: Sample, fractions: Sequence[float | int]) -> Sample:
    """Crops a sample to a random window with a random object.

    Each side of the window is a random part of the side of the sample, between the two fractions,
    as in Detectron2's ``RandomCrop`` of the type "relative_range". On each axis the window has the
    whole box of the object in it, or lies in the box if that is longer. Without objects it lies
    anywhere.
    """
    size = np.array(sample.image.shape[:2])
    sides = np.maximum(np.floor(size * rng.uniform(*fractions, 2) + 0.5).astype(int), 1)
    chosen, places = rng.random(), rng.random(2)
    ends = np.stack([np.zeros(2, int), size - sides])  # First and last place of the window.
    if len(sample.boxes):
        x0, y0, x1, y1 = sample.boxes[int(chosen * len(sample.boxes))]
        near, far = np.floor([y0, x0]).astype(int), np.ceil([y1, x1]).astype(int)
        ends = np.clip(np.sort([near, far - sides], axis=0), *ends)
    top, left = (ends[0] + places * (ends[1] - ends[0] + 1)).astype(int).tolist()
    return samples.crop(sample, Window(top, left, *sides.tolist()))


def horizontal_flip(rng: np.random.Generator, sample: Sample, probability: float | int) -> Sample:
    """Mirrors a sample left to right with the given probability."""
    return samples.flip_horizontally(sample) if rng.random() < probability else sample


def vertical_flip(rng: np.random.Generator, sample: Sample, probability: float | int) -> Sample:
    """Mirrors a sample top to bottom with the given probability."""
    return samples.flip_vertically(sample) if rng.random() < probability else sample


def quarter_turn(rng: np.random.Generator, sample: Sample, probability: float | int) -> Sample:
    """Turns a sample by one, two or three quarters with the given probability."""
    turns, num_quarters = rng.random() < probability, int(rng.integers(1, 4))
    return samples.turn(sample, num_quarters) if turns else sample


def distort(rng: np.random.Generator, sample: Sample, config: DataConfig) -> Sample:
    """Changes brightness, contrast, saturation and hue, each with ``config.distortion``.

    This is the photometric distortion of SSD (Liu et al., 2016) by the rule of torchvision's
    ``RandomPhotometricDistort``: contrast is changed before saturation and hue or, as often, after
    them. Like Detectron2's ``ColorAugSSDTransform``, it never permutes the channels.
    """
    is_chosen = rng.random(4) < config.distortion
    names = ("brightness", "contrast", "saturation", "hue")
    values = [float(rng.uniform(*getattr(config, name))) for name in names]
    order = [0, 2, 3, 1] if rng.random() < 0.5 else [0, 1, 2, 3]
    image = sample.image
    for i in order:
        if is_chosen[i] and (image.shape[2] == 3 or names[i] not in colours.OF_RGB):
            image = colours.CHANGES[names[i]](image, values[i])
    return sample._replace(image=image)


def train_sample(
    example: Example,
    seed: Sequence[int],
    config: DataConfig,
    transforms: Mapping[str, Transform],
) -> Sample:
    """Applies the view and the transforms of training to one image.

    Args:
        example: The image and its objects.
        seed: Determines all random draws.
        config: Gives sizes and the jitter.
        transforms: Transforms by name, in order of application.
    """
    viewed = view.train_view(generator(seed, "view"), example, config)
    return apply(transforms, seed, viewed)


def apply(transforms: Mapping[str, Transform], seed: Sequence[int], sample: Sample) -> Sample:
    """Applies the transforms in order, each with its own random generator."""
    for name, transform in transforms.items():
        sample = transform(generator(seed, name), sample)
    return sample


def generator(seed: Sequence[int], name: str) -> np.random.Generator:
    """Returns the random generator of one stage for one sample, seeded by both."""
    return np.random.default_rng((*seed, zlib.crc32(name.encode())))
