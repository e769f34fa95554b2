"""Turns a data set into batches; each batch has the static shape of one bucket.

Batches are a pure function of the seed and the step. `schedule` gives the images of a step. The
random transforms of an image depend on the seed, the step, the image id, and the number of earlier
copies of the image in the batch. Therefore the step is the only state of the iterator, all hosts
agree on the bucket, and a resumed run sees the same batches as an uninterrupted one.
"""

import bisect
import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Int

from maskrcnn_jax import images, resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import transforms as stages
from maskrcnn_jax.data.dataset import Dataset, Example
from maskrcnn_jax.data.pack import pack
from maskrcnn_jax.data.sample import Sample
from maskrcnn_jax.data.transforms import Transform
from maskrcnn_jax.data.view import eval_view, train_view
from maskrcnn_jax.structures import Batch


class EvalBatch(NamedTuple):
    """A batch, with the values that map its detections back to the original images."""

    batch: Batch
    original_sizes: Int[np.ndarray, "b 2"]  # Height and width before resizing, in pixels.
    real: Bool[np.ndarray, " b"]  # False for repeated images that only fill the batch.


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
    limits = max(data_config.short_sides), data_config.max_long_side
    return _members(dataset, sizes, limits, data_config.buckets, "data.buckets")


def eval_members(dataset: Dataset, data_config: DataConfig) -> list[Int[np.ndarray, " _"]]:
    """Assigns every image to one of ``data.test_buckets``, at the size of evaluation.

    Returns and raises the same as `train_members`.
    """
    sizes = np.asarray(dataset.sizes).reshape(-1, 2)
    limits = data_config.test_short_side, data_config.test_max_long_side
    return _members(dataset, sizes, limits, data_config.test_buckets, "data.test_buckets")


def _members(
    dataset: Dataset,
    sizes: Int[np.ndarray, "n 2"],
    limits: tuple[int, int],
    buckets: Sequence[tuple[int, int]],
    field: str,
) -> list[Int[np.ndarray, " _"]]:
    """Groups images by the bucket that holds them after resizing; see `train_members`.

    Args:
        dataset: Gives the ids and sizes for error messages.
        sizes: Height and width of each image before resizing.
        limits: Short side and largest long side to resize to.
        buckets: Height and width of each bucket.
        field: Name of the buckets in the config, for error messages.
    """
    if len(sizes) == 0:
        raise ValueError("the data set has no images, or none with an object to learn from")
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
    step: int, members: Sequence[Int[np.ndarray, " _"]], *, batch_size: int, seed: int
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

    Returns:
        The position of the bucket in ``members``, and the indices of ``batch_size`` images.
    """
    counts = tuple(map(len, members))
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
        drawn.append(_permutation(counts[bucket], seed, bucket, repetition)[place])
    return bucket, members[bucket][drawn]


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
# 1 for permutations, 2 for the transforms of an image.
@functools.lru_cache(maxsize=4)
def _bucket_order(batches: tuple[int, ...], seed: int, epoch: int) -> Int[np.ndarray, " steps"]:
    return np.random.default_rng((seed, 0, epoch)).permutation(
        np.repeat(np.arange(len(batches)), batches)
    )


@functools.lru_cache(maxsize=64)
def _permutation(count: int, seed: int, bucket: int, repetition: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, 1, bucket, repetition)).permutation(count)


def train_batches(
    dataset: Dataset,
    data_config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    transforms: Mapping[str, Transform] | None = None,
    masks: bool = True,
) -> Iterator[Batch]:
    """Yields training batches from ``start_step`` on, without end.

    The images of a step come from `schedule` and are uint8. Each image passes through
    `view.train_view`, the transforms, and `pack.pack`. If an image has more than ``max_instances``
    objects, the last ones in its annotations have no slot; `Batch.num_surplus` counts them.

    A batch may hold the same image several times: if its bucket has fewer images than a batch, or
    where a permutation ends within the batch. Each copy has its own random view, but the same
    random priorities of anchors and RoIs, because `MaskRCNN.losses` seeds them with the image id.

    OpenCV, if installed, is limited to one thread in the whole process, because several threads
    prepare images already.

    Args:
        dataset: The images and their objects.
        data_config: Gives sizes, buckets, slots, transforms and threads.
        batch_size: Images per step, over all processes.
        seed: Seed of the order and of all random transforms.
        start_step: First step to yield.
        rows: Rows of the batch that this process loads; all by default. A row holds the same image
            for any choice of rows.
        transforms: Transforms by name, in order of application; `transforms.standard` by default.
        masks: Whether the batches have masks. A model without a mask head needs none.

    Raises:
        ValueError: The data set is empty, an image fits no bucket, or ``data.mask_store`` is
            unknown.
    """
    _check_masks(data_config)
    members, buckets = train_members(dataset, data_config), data_config.buckets
    transforms = stages.standard(data_config) if transforms is None else transforms

    # Several threads load the rows of a step separately and share its schedule.
    @functools.lru_cache(maxsize=16)
    def scheduled(step: int) -> tuple[int, np.ndarray]:
        return schedule(step, members, batch_size=batch_size, seed=seed)

    rows = range(batch_size) if rows is None else rows

    def load(index: int) -> Batch:
        step, position = divmod(index, len(rows))
        bucket, indices = scheduled(step)
        chosen, before = indices[rows[position]], indices[: rows[position]]
        example = dataset[int(chosen)]
        repetition = int((before == chosen).sum())
        # An image id may be negative, but a seed may not.
        image_seed = (seed, 2, step, example.image_id % 2**32, repetition)
        sample = train_sample(example, image_seed, data_config, transforms)
        return pack(sample, buckets[bucket], data_config, masks=masks)

    loaded = grain.MapDataset.range(start_step * len(rows), sys.maxsize).map(load)
    return _read(loaded, len(rows), data_config)


def eval_batches(
    dataset: Dataset,
    data_config: DataConfig,
    *,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    masks: bool = True,
) -> Iterator[EvalBatch]:
    """Yields every image once, bucket by bucket, as float32 in [0, 1], with its ground truth.

    The last image of a bucket is repeated to fill the last batch. OpenCV, if installed, is limited
    to one thread in the whole process.

    Args:
        dataset: The images and their objects.
        data_config: Gives sizes, buckets, slots and threads.
        batch_size: Images per batch.
        share: The index of this process and the number of processes that divide the images.
        masks: Whether the batches have masks.

    Raises:
        ValueError: The data set is empty, an image fits no bucket, or ``data.mask_store`` is
            unknown.
    """
    _check_masks(data_config)
    members, buckets = eval_members(dataset, data_config), data_config.test_buckets
    process, num_processes = share
    members = [indices[process::num_processes] for indices in members]
    rows = []  # (bucket, index, real)
    for bucket, indices in zip(buckets, members, strict=True):
        num_batches = -(-len(indices) // batch_size)
        for i in range(num_batches * batch_size):
            rows.append((bucket, int(indices[min(i, len(indices) - 1)]), i < len(indices)))

    def load(row: tuple[tuple[int, int], int, bool]) -> EvalBatch:
        bucket, index, real = row
        example = dataset[index]
        batch = pack(eval_view(example, data_config), bucket, data_config, masks=masks)
        return EvalBatch(batch, np.array(example.image.shape[:2], np.int32), np.bool_(real))

    return _read(grain.MapDataset.source(rows).map(load), batch_size, data_config)


def train_sample(
    example: Example,
    seed: Sequence[int],
    data_config: DataConfig,
    transforms: Mapping[str, Transform],
) -> Sample:
    """Applies the view and the transforms of training to one image.

    Args:
        example: The image and its objects.
        seed: Determines all random draws.
        data_config: Gives short sides and the crop size.
        transforms: Transforms by name, in order of application.
    """
    viewed = train_view(stages.generator(seed, "view"), example, data_config)
    return stages.apply(transforms, seed, viewed)


def _check_masks(data_config: DataConfig) -> None:
    if data_config.mask_store not in ("crop", "full"):
        raise ValueError(
            f'data.mask_store must be "crop" or "full", got {data_config.mask_store!r}'
        )


def _read(rows: grain.MapDataset, batch_size: int, data_config: DataConfig) -> Iterator[Any]:
    threads = data_config.num_threads
    if threads:
        images.use_one_thread()
    # Prefetch two batches: Grain's default of 500 elements would take gigabytes.
    options = grain.ReadOptions(threads, prefetch_buffer_size=max(2 * batch_size, threads))
    with contextlib.closing(iter(rows.to_iter_dataset(options).batch(batch_size))) as batches:
        yield from batches
