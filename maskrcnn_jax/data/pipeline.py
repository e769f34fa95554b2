"""From a data set to batches of one static shape each.

The order is a pure function of the seed and the step: `schedule` says which images a step sees, and what is random
about an image follows from seed, step and image id, and from how often the step has had it before. So the step is the
whole state of the iterator, every host agrees on the bucket, and a resumed run continues with the very batches it would
have seen.
"""

import bisect
import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Int

from maskrcnn_jax import images
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import augmentation
from maskrcnn_jax.data.augmentation import Sample, Window
from maskrcnn_jax.data.coco import Example
from maskrcnn_jax.structures import Batch, Instances


class EvalBatch(NamedTuple):
    """A batch with what evaluation needs to lead detections back to the original images."""

    batch: Batch
    original_sizes: Int[np.ndarray, "b 2"]  # Height and width before resizing.
    real: Bool[np.ndarray, " b"]  # False where an image is repeated to fill the batch.


def check_sizes(train: Any, val: Any, data_config: DataConfig) -> None:
    """Raises ValueError, as `train_members` and `eval_members` do, before a run has come to its first evaluation."""
    train_members(train, data_config)
    eval_members(val, data_config)


def train_members(dataset: Any, data_config: DataConfig) -> list[Int[np.ndarray, " _"]]:
    """Indices of the images in each of ``data.buckets``, which hold them at the largest size that training draws.

    Raises:
        ValueError: there are no images, or one fits no bucket; the message names it, its sizes, and the field.
    """
    sizes = np.asarray(dataset.sizes).reshape(-1, 2)
    if data_config.crop_size is not None:
        sizes = np.minimum(sizes, data_config.crop_size)
    limits = max(data_config.short_sides), data_config.max_long_side
    return _members(dataset, sizes, limits, data_config.buckets, "data.buckets")


def eval_members(dataset: Any, data_config: DataConfig) -> list[Int[np.ndarray, " _"]]:
    """The same of ``data.test_buckets``, for an evaluation."""
    sizes = np.asarray(dataset.sizes).reshape(-1, 2)
    limits = data_config.test_short_side, data_config.test_max_long_side
    return _members(dataset, sizes, limits, data_config.test_buckets, "data.test_buckets")


def _members(
    dataset: Any,
    sizes: Int[np.ndarray, "n 2"],
    limits: tuple[int, int],
    buckets: Sequence[tuple[int, int]],
    field: str,
) -> list[Int[np.ndarray, " _"]]:
    """Sorts images by the bucket that holds them after resizing to the limits of their short and long side."""
    if len(sizes) == 0:
        raise ValueError("the data set has no images")
    shapes, first, shape_of_image = np.unique(sizes, axis=0, return_index=True, return_inverse=True)
    buckets = [tuple(bucket) for bucket in buckets]
    bucket_of_shape = []
    for shape, index in zip(shapes, first, strict=True):
        resized = images.resized_size(shape, *limits)
        try:
            bucket_of_shape.append(buckets.index(images.bucket_for(resized, buckets)))
        except ValueError as error:
            (height, width), (new_height, new_width) = dataset.sizes[index], resized
            image = f"image id {dataset.image_ids[index]} of {height}x{width} pixels (height x width)"
            message = f"{field}: {image}, {new_height}x{new_width} after resizing, fits none of {buckets}"
            raise ValueError(message) from error
    bucket_of_image = np.array(bucket_of_shape)[shape_of_image.reshape(-1)]
    return [np.flatnonzero(bucket_of_image == index) for index in range(len(buckets))]


def schedule(
    step: int, members: Sequence[Int[np.ndarray, " _"]], *, batch_size: int, seed: int
) -> tuple[int, Int[np.ndarray, " {batch_size}"]]:
    """Says which bucket a training step takes, and which of its images.

    Each bucket is an endless stream, one permutation of its members after the other, cut into batches. In an epoch a
    bucket gives as many batches as make its stream reach the epoch's end, in an order shuffled over the buckets. So
    after n epochs every image was seen at least n times, no image is preferred in the long run, and a bucket with
    fewer images than a batch gives a batch now and then.

    Args:
        members: indices of the images in each bucket, at least one in all.

    Returns:
        The position of the bucket in ``members``, and the indices of ``batch_size`` images.
    """
    counts = tuple(map(len, members))
    epoch = _epoch(step, counts, batch_size)
    before, after = _batches_before(epoch, counts, batch_size), _batches_before(epoch + 1, counts, batch_size)
    order = _bucket_order(tuple(b - a for a, b in zip(before, after, strict=True)), seed, epoch)
    position = step - sum(before)
    bucket = int(order[position])
    batch = before[bucket] + int((order[:position] == bucket).sum())
    stream = range(batch * batch_size, (batch + 1) * batch_size)
    drawn = [_permutation(counts[bucket], seed, bucket, i // counts[bucket])[i % counts[bucket]] for i in stream]
    return bucket, members[bucket][drawn]


def _batches_before(epoch: int, counts: tuple[int, ...], batch_size: int) -> list[int]:
    # Rounded up: the last batch of an epoch runs on into the next permutation.
    return [-(-epoch * count // batch_size) for count in counts]


def _epoch(step: int, counts: tuple[int, ...], batch_size: int) -> int:
    # An epoch has at least 1 / batch_size steps on average, which bounds the search.
    epochs = range((step + 1) * batch_size + 1)
    return bisect.bisect_right(epochs, step, key=lambda epoch: sum(_batches_before(epoch, counts, batch_size))) - 1


# The second number of each seed keeps the kinds of draws apart: order of buckets, permutations, views of images.
@functools.lru_cache(maxsize=4)
def _bucket_order(batches: tuple[int, ...], seed: int, epoch: int) -> Int[np.ndarray, " steps"]:
    return np.random.default_rng((seed, 0, epoch)).permutation(np.repeat(np.arange(len(batches)), batches))


@functools.lru_cache(maxsize=64)
def _permutation(count: int, seed: int, bucket: int, repetition: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, 1, bucket, repetition)).permutation(count)


def _view_rng(seed: int, step: int, image_id: int, repetition: int) -> np.random.Generator:
    entropy = [seed, 2, step, image_id % 2**32]  # A seed cannot be negative, an id can.
    # Only where a batch has the image again: its first view is the same, however many follow.
    return np.random.default_rng([*entropy, repetition] if repetition else entropy)


def train_batches(
    dataset: Any,
    data_config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yields the batches of `schedule` without end, from ``start_step`` on, with ``uint8`` images.

    Objects beyond ``max_instances`` are those that come last in the annotations; `Batch.num_surplus` counts them.

    A batch has an image several times where its bucket has fewer images than a batch, or where one permutation follows
    another. Each time it is another view, but with the same random priorities of anchors and RoIs, which
    `MaskRCNN.losses` draws by the id of the image.

    Args:
        dataset: has a length, ``sizes``, ``image_ids`` and, by index, an `Example`.
        batch_size: images per step, over all processes.
        rows: which of them this process loads, all by default. The others choose, and vary, no image otherwise.

    Raises:
        ValueError: the data set is empty, an image fits no bucket, or masks cannot be stored as configured.
    """
    _check_masks(data_config)
    members, buckets = train_members(dataset, data_config), data_config.buckets

    # The positions of a step are loaded one by one, by several threads.
    @functools.lru_cache(maxsize=16)
    def scheduled(step: int) -> tuple[int, np.ndarray]:
        return schedule(step, members, batch_size=batch_size, seed=seed)

    rows = range(batch_size) if rows is None else rows

    def load(index: int) -> Batch:
        step, position = divmod(index, len(rows))
        bucket, indices = scheduled(step)
        chosen, before = indices[rows[position]], indices[: rows[position]]
        example = dataset[int(chosen)]
        rng = _view_rng(seed, step, example.image_id, repetition=int((before == chosen).sum()))
        return _row(train_sample(example, rng, data_config), example.image_id, buckets[bucket], data_config)

    return _read(grain.MapDataset.range(start_step * len(rows), sys.maxsize).map(load), len(rows), data_config)


def eval_batches(
    dataset: Any, data_config: DataConfig, *, batch_size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[EvalBatch]:
    """Yields every image once, bucket by bucket, with float32 images in [0, 1] and their ground truth.

    The last batch of a bucket is filled by repeating its last image.

    Args:
        dataset: has a length, ``sizes``, ``image_ids`` and, by index, an `Example`.
        share: which process this is, and how many divide the images among themselves.

    Raises:
        ValueError: the data set is empty, an image fits no bucket, or masks cannot be stored as configured.
    """
    _check_masks(data_config)
    members, buckets = eval_members(dataset, data_config), data_config.test_buckets
    process, num_processes = share
    members = [indices[process::num_processes] for indices in members]
    rows = [
        (bucket, int(indices[min(i, len(indices) - 1)]), i < len(indices))
        for bucket, indices in zip(buckets, members, strict=True)
        for i in range(-(-len(indices) // batch_size) * batch_size)
    ]

    def load(row: tuple[tuple[int, int], int, bool]) -> EvalBatch:
        bucket, index, real = row
        example = dataset[index]
        size = np.array(example.image.shape[:2], np.int32)
        batch = _row(_eval_sample(example, data_config), example.image_id, bucket, data_config)
        return EvalBatch(batch, size, np.bool_(real))

    return _read(grain.MapDataset.source(rows).map(load), batch_size, data_config)


def _check_masks(data_config: DataConfig) -> None:
    if data_config.mask_store not in ("crop", "full"):
        raise ValueError(f'data.mask_store must be "crop" or "full", got {data_config.mask_store!r}')
    if data_config.mask_store == "crop" and data_config.mask_size % 32 == 0:
        raise ValueError(
            f"data.mask_size must not be a multiple of 32, as the sides of images are; got {data_config.mask_size}"
        )


def _read(rows: grain.MapDataset, batch_size: int, data_config: DataConfig) -> Iterator[Any]:
    # Two batches ahead: grain's own default of 500 elements is gigabytes here.
    threads = data_config.num_threads
    options = grain.ReadOptions(threads, prefetch_buffer_size=max(2 * batch_size, threads))
    with contextlib.closing(iter(rows.to_iter_dataset(options).batch(batch_size))) as batches:
        yield from batches


def train_sample(example: Example, rng: np.random.Generator, data_config: DataConfig) -> Sample:
    """Draws a view of an image as training does: a part of it, resized, perhaps flipped."""
    view = augmentation.draw(rng, example.image.shape[:2], data_config)
    size = images.resized_size((view.window.height, view.window.width), view.short_side, data_config.max_long_side)
    sample = augmentation.cut(example, view.window, size, images.resize_uint8, data_config)
    if view.flip_horizontally:
        sample = augmentation.flip_horizontally(sample)
    if view.flip_vertically:
        sample = augmentation.flip_vertically(sample)
    return sample


def _eval_sample(example: Example, data_config: DataConfig) -> Sample:
    height, width = example.image.shape[:2]
    size = images.resized_size((height, width), data_config.test_short_side, data_config.test_max_long_side)
    return augmentation.cut(example, Window(0, 0, height, width), size, images.resize, data_config)


def _row(sample: Sample, image_id: int, bucket: tuple[int, int], data_config: DataConfig) -> Batch:
    """Pads a sample to the static shapes of its bucket; the result is a `Batch` without the axis b."""
    size, slots = sample.image.shape[:2], data_config.max_instances
    mask_shape = bucket if data_config.mask_store == "full" else sample.masks.shape[1:]
    instances = Instances(
        boxes=_pad(sample.boxes, (slots, 4)),
        classes=_pad(sample.classes.astype(np.int32), (slots,)),
        masks=_pad(sample.masks, (slots, *mask_shape)),
        valid=np.arange(slots) < len(sample.boxes),
    )
    return Batch(
        images=_pad(sample.image, (*bucket, 3)),
        sizes=np.array(size, np.int32),
        canvas=np.array(images.ceil32(size), np.int32),
        image_id=np.int32(image_id),
        instances=instances,
        num_surplus=np.int32(sample.num_surplus),
    )


def _pad(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Fills up with zeros behind the array, on every axis."""
    padded = np.zeros(shape, array.dtype)
    padded[tuple(map(slice, array.shape))] = array
    return padded
