"""Which images a training step sees: a pure function of the seed and the step.

Images are grouped by the bucket that holds them. Each group has an endless stream of images.
"""

import bisect
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from maskrcnn_jax import resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.dataset import Dataset
from maskrcnn_jax.data.streams import Streams


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


def schedule(
    step: int, streams: Streams, batch_size: int
) -> tuple[int, Int[np.ndarray, " {batch_size}"]]:
    """Returns the bucket and the images of a training step.

    The stream of each bucket is cut into batches. In each epoch a bucket contributes the batches
    that advance its stream to the end of the epoch; the order of the batches of all buckets is
    shuffled. Therefore every image of a data set without weights is seen at least n times in n
    epochs and equally often in the long run. A bucket with fewer images than a batch does not
    contribute to every epoch.

    Args:
        step: Number of the training step, from 0.
        streams: The images of each bucket.
        batch_size: Images per step.

    Returns:
        The position of the bucket, and the indices of ``batch_size`` images.
    """
    counts = streams.counts
    epoch = _epoch(step, counts, batch_size)
    before = _batches_before(epoch, counts, batch_size)
    after = _batches_before(epoch + 1, counts, batch_size)
    batches_of_epoch = tuple(b - a for a, b in zip(before, after, strict=True))
    order = _bucket_order(batches_of_epoch, streams.seed, epoch)
    position = step - sum(before)
    bucket = int(order[position])
    batch = before[bucket] + int((order[:position] == bucket).sum())
    places = range(batch * batch_size, (batch + 1) * batch_size)
    drawn = [divmod(place, counts[bucket]) for place in places]
    return bucket, np.array([streams.epoch(bucket, number)[i] for number, i in drawn])


def _batches_before(epoch: int, counts: tuple[int, ...], batch_size: int) -> list[int]:
    # Round up: the last batch of an epoch takes images from the next permutation.
    return [-(-epoch * count // batch_size) for count in counts]


def _epoch(step: int, counts: tuple[int, ...], batch_size: int) -> int:
    def first_step(epoch: int) -> int:
        return sum(_batches_before(epoch, counts, batch_size))

    # An epoch has at least 1 / batch_size steps on average, which bounds the search.
    epochs = range((step + 1) * batch_size + 1)
    return bisect.bisect_right(epochs, step, key=first_step) - 1


@functools.lru_cache(maxsize=4)
def _bucket_order(batches: tuple[int, ...], seed: int, epoch: int) -> Int[np.ndarray, " steps"]:
    return np.random.default_rng((seed, 0, epoch)).permutation(
        np.repeat(np.arange(len(batches)), batches)
    )
