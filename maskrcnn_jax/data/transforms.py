"""The second stage of the pipeline: random transforms of a sample, each a plain function.

A transform takes a random generator and a `Sample` and returns a `Sample`. It may change pixels,
crop and resize (`sample.crop`, `sample.resize`), and drop or add objects (`sample.select`,
`masks.from_bitmap`), because slots are filled and masks are rasterised after the last transform. To
add a transform, pass it together with the standard ones:

    train_batches(dataset, config, transforms=standard(config) | {"sepia": sepia}, ...)

Each transform has its own generator, seeded by its name. Adding or removing a transform therefore
does not change the random draws of the others. A transform that mixes images keeps a reference to
the data set, draws an index ``i`` and calls ``view.train_view(rng, dataset[i], config)`` to get
another sample.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.sample import Sample

Transform = Callable[[np.random.Generator, Sample], Sample]


def standard(config: DataConfig) -> dict[str, Transform]:
    """Returns the transforms of a config by name, in order of application."""
    return {
        "horizontal_flip": partial(horizontal_flip, probability=config.horizontal_flip),
        "vertical_flip": partial(vertical_flip, probability=config.vertical_flip),
    }


def horizontal_flip(rng: np.random.Generator, sample: Sample, probability: float | int) -> Sample:
    """Mirrors a sample left to right with the given probability."""
    return samples.flip_horizontally(sample) if rng.random() < probability else sample


def vertical_flip(rng: np.random.Generator, sample: Sample, probability: float | int) -> Sample:
    """Mirrors a sample top to bottom with the given probability."""
    return samples.flip_vertically(sample) if rng.random() < probability else sample


def apply(transforms: Mapping[str, Transform], seed: Sequence[int], sample: Sample) -> Sample:
    """Applies the transforms in order, each with its own random generator."""
    for name, transform in transforms.items():
        sample = transform(generator(seed, name), sample)
    return sample


def generator(seed: Sequence[int], name: str) -> np.random.Generator:
    """Returns the random generator of one stage for one sample, seeded by both."""
    return np.random.default_rng((*seed, zlib.crc32(name.encode())))
