"""Which images a training step sees: a pure function of the seed and the step.

Images are grouped by the bucket that holds them. Each group is an endless stream of permutations.
"""

import bisect
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from maskrcnn_jax import resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.dataset import Dataset

_SHORTEST_EPOCH = 1000  # Images, of several sets: shorter ones would round their shares.


def check_sizes(train: Dataset, val: Dataset, data_config: DataConfig) -> None:
    """Checks that every image of both data sets fits a bucket, before a run starts.

    Raises the errors of `train_members` and `eval_members`.
    """
    train_members(train, data_config)
    eval_members(val, data_config)


def train_members(dataset: Dataset, data_config: DataConfig) -> list[Int[np.ndarray, " _"]]:
    """Assigns every image to the smallest of ``data.buckets`` that holds it in training.

    The bucket must hold the image at the largest short side that training draws.

    Returns:
        The indices of the images of each bucket, ascending.

    Raises:
        ValueError: There are no images, or an image fits no bucket. The message names the image,
            its sizes and the config field.
    """
    sizes = np.asarray(dataset.sizes).reshape(-1, 2)
    if data_config.crop_size is not None:
        sizes = np.minimum(sizes, data_config.crop_size)
    limits = max(data_config.short_sides), data_config.max_long_side, data_config.size_rule
    if data_config.jitter:
        side = data_config.jitter_side
        sizes, limits = np.full_like(sizes, side), (side, side, data_config.size_rule)
    _check_not_empty(dataset, "data.train_annotations")
    return _members(dataset, sizes, limits, data_config.buckets, "data.buckets")


def eval_members(dataset: Dataset, data_config: DataConfig) -> list[Int[np.ndarray, " _"]]:
    """Assigns every image to one of ``data.test_buckets``, at the size of evaluation.

    Returns and raises the same as `train_members`.
    """
    sizes = np.asarray(dataset.sizes).reshape(-1, 2)
    limits = (
        data_config.test_short_side,
        data_config.test_max_long_side,
        data_config.size_rule,
    )
    _check_not_empty(dataset, "data.val_annotations")
    return _members(dataset, sizes, limits, data_config.test_buckets, "data.test_buckets")


def _check_not_empty(dataset: Dataset, field: str) -> None:
    if len(dataset) == 0:
        why = getattr(dataset, "why_empty", None)
        raise ValueError("the data set has no images" if why is None else f"{field}: {why}")


def _members(
    dataset: Dataset,
    sizes: Int[np.ndarray, "n 2"],
    limits: tuple[int, int, str],
    buckets: Sequence[tuple[int, int]],
    field: str,
) -> list[Int[np.ndarray, " _"]]:
    """Groups images by the bucket that holds them after resizing; see `train_members`.

    Args:
        dataset: Gives the ids and sizes for error messages.
        sizes: Height and width of each image before resizing.
        limits: Short side and largest long side to resize to, and the rule for sizes.
        buckets: Height and width of each bucket.
        field: Name of the buckets in the config, for error messages.
    """
    shapes, first, shape_of_image = np.unique(sizes, axis=0, return_index=True, return_inverse=True)
    buckets = [tuple(bucket) for bucket in buckets]
    bucket_of_shape = []
    for shape, index in zip(shapes, first, strict=True):
        resized = resizing.resized_size(shape, *limits)
        try:
            bucket_of_shape.append(buckets.index(resizing.bucket_for(resized, buckets)))
        except ValueError as error:
            (height, width), (new_height, new_width) = dataset.sizes[index], resized
            raise ValueError(
                f"{field}: image id {dataset.image_ids[index]} of {height}x{width} pixels "
                f"(height x width), {new_height}x{new_width} after resizing, fits none of {buckets}"
            ) from error
    bucket_of_image = np.array(bucket_of_shape)[shape_of_image.reshape(-1)]
    return [np.flatnonzero(bucket_of_image == index) for index in range(len(buckets))]


class Mixture(NamedTuple):
    """The images of several training sets in each bucket: a row for each bucket, one number a set.

    In each bucket the images of the first set come first.
    """

    counts: tuple[tuple[int, ...], ...]  # Images of each set.
    quotas: tuple[tuple[int, ...], ...]  # Images that an epoch takes of each set.


def mixture(
    members: Sequence[Int[np.ndarray, " _"]],
    set_of_image: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " s"],
) -> Mixture:
    """How often images of each set are seen, by the weights of the sets.

    A set with the share p of all weights gives the share p of the images of an epoch, divided over
    the buckets as its images are. Rounding changes a share by less than a hundredth.

    Args:
        members: The images of each bucket, from `train_members`.
        set_of_image: The position of the set of every image, ascending.
        weights: The weight of each set.

    Raises:
        ValueError: No image of a set is left.
    """
    own = [np.bincount(set_of_image[x], minlength=len(weights)) for x in members]
    counts = np.array(own).reshape(-1, len(weights))
    totals = counts.sum(axis=0)
    if not totals.all():
        raise ValueError(f"data.train: no image is left of set {int(totals.argmin()) + 1}")
    length = max(int(totals.sum()), _SHORTEST_EPOCH)
    quotas = np.rint(length * weights / weights.sum() / totals * counts).astype(int)
    quotas = np.where(counts > 0, np.maximum(quotas, 1), 0)
    return Mixture(*(tuple(map(tuple, x.tolist())) for x in (counts, quotas)))


def schedule(
    step: int,
    members: Sequence[Int[np.ndarray, " _"]],
    *,
    batch_size: int,
    seed: int,
    mixture: Mixture | None = None,
) -> tuple[int, Int[np.ndarray, " {batch_size}"]]:
    """Returns the bucket and the images of a training step.

    Each bucket is an endless stream of permutations of its images, cut into batches. In each epoch
    a bucket contributes the batches that advance its stream to the end of the epoch; the order of
    the batches of all buckets is shuffled. Therefore every image is seen at least n times in n
    epochs and equally often in the long run. A bucket with fewer images than a batch does not
    contribute to every epoch.

    Args:
        step: Number of the training step, from 0.
        members: Indices of the images of each bucket. At least one bucket is not empty.
        batch_size: Images per step.
        seed: Seed of the permutations and of the order of buckets.
        mixture: The numbers of several sets. Each set is an endless stream of permutations of its
            own then. An epoch takes its quota of each stream, the sets in random order.

    Returns:
        The position of the bucket in ``members``, and the indices of ``batch_size`` images.
    """
    counts = tuple(map(sum, mixture.quotas)) if mixture else tuple(map(len, members))
    epoch = _epoch(step, counts, batch_size)
    before = _batches_before(epoch, counts, batch_size)
    after = _batches_before(epoch + 1, counts, batch_size)
    batches_of_epoch = tuple(b - a for a, b in zip(before, after, strict=True))
    order = _bucket_order(batches_of_epoch, seed, epoch)
    position = step - sum(before)
    bucket = int(order[position])
    batch = before[bucket] + int((order[:position] == bucket).sum())
    drawn = []
    for i in range(batch * batch_size, (batch + 1) * batch_size):
        repetition, place = divmod(i, counts[bucket])
        if mixture is None:
            drawn.append(_permutation(counts[bucket], (seed, 1, bucket, repetition))[place])
        else:
            drawn.append(_drawn(place, repetition, bucket, seed, mixture))
    return bucket, members[bucket][drawn]


def _drawn(place: int, repetition: int, bucket: int, seed: int, mixture: Mixture) -> int:
    """The position in a bucket of the image at a place of an epoch of several sets."""
    counts, quotas = mixture.counts[bucket], mixture.quotas[bucket]
    sets, ranks = _set_order(quotas, seed, bucket, repetition)
    which = int(sets[place])
    cycle, rest = divmod(repetition * quotas[which] + int(ranks[place]), counts[which])
    permutation = _permutation(counts[which], (seed, 3, bucket, which, cycle))
    return sum(counts[:which]) + int(permutation[rest])


def _batches_before(epoch: int, counts: tuple[int, ...], batch_size: int) -> list[int]:
    # Round up: the last batch of an epoch takes images from the next permutation.
    return [-(-epoch * count // batch_size) for count in counts]


def _epoch(step: int, counts: tuple[int, ...], batch_size: int) -> int:
    def first_step(epoch: int) -> int:
        return sum(_batches_before(epoch, counts, batch_size))

    # An epoch has at least 1 / batch_size steps on average, which bounds the search.
    epochs = range((step + 1) * batch_size + 1)
    return bisect.bisect_right(epochs, step, key=first_step) - 1


# The second number of a seed separates the kinds of random draws: 0 for the order of buckets,
# 1 for permutations, 2 for the transforms of an image, 3 for permutations of one of several sets.
@functools.lru_cache(maxsize=4)
def _bucket_order(batches: tuple[int, ...], seed: int, epoch: int) -> Int[np.ndarray, " steps"]:
    return np.random.default_rng((seed, 0, epoch)).permutation(
        np.repeat(np.arange(len(batches)), batches)
    )


@functools.lru_cache(maxsize=16)
def _set_order(
    quotas: tuple[int, ...], seed: int, bucket: int, repetition: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The set of each place of an epoch, and how many earlier places have the same set.

    The places of a set are spread evenly, each at random in its own part of the epoch, so the
    shares hold in any part of an epoch.
    """
    random = np.random.default_rng((seed, 1, bucket, repetition))
    ranks = np.concatenate([np.arange(quota) for quota in quotas])
    lengths = np.repeat(quotas, quotas)
    order = np.argsort((ranks + random.random(len(ranks))) / lengths, kind="stable")
    return np.repeat(np.arange(len(quotas)), quotas)[order], ranks[order]


@functools.lru_cache(maxsize=64)
def _permutation(count: int, seed: tuple[int, ...]) -> Int[np.ndarray, " n"]:
    return np.random.default_rng(seed).permutation(count)
