"""Turns a data set into batches; each batch has the static shape of one bucket.

Batches are a pure function of the seed and the step. `schedule` gives the images of a step. The
random transforms of an image depend on the seed, the step, the image id, and the number of earlier
copies of the image in the batch. Therefore the step is the only state of the iterator, all hosts
agree on the bucket, and a resumed run sees the same batches as an uninterrupted one.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Int

from maskrcnn_jax import images
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import sampling
from maskrcnn_jax.data import transforms as stages
from maskrcnn_jax.data.dataset import Dataset, Example
from maskrcnn_jax.data.joint import JointDataset
from maskrcnn_jax.data.lost_images import LostImages
from maskrcnn_jax.data.pack import nothing, pack
from maskrcnn_jax.data.schedule import eval_members, schedule, train_members
from maskrcnn_jax.data.streams import Streams, mixture, streams
from maskrcnn_jax.data.transforms import Transform
from maskrcnn_jax.data.view import eval_view
from maskrcnn_jax.structures import Batch


class EvalBatch(NamedTuple):
    """A batch, with the values that map its detections back to the original images."""

    batch: Batch
    original_sizes: Int[np.ndarray, "b 2"]  # Height and width before resizing, in pixels.
    real: Bool[np.ndarray, " b"]  # False for repeated images that only fill the batch.


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
    lost: LostImages | None = None,
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
        lost: Records images that cannot be read; they become images of size 0, see
            `pack.nothing`. Without a record they are errors.

    Raises:
        ValueError: The data set is empty, an image fits no bucket, or ``data.mask_store`` is
            unknown.
        OSError: An image cannot be read, and there is no record for it.
    """
    _check_masks(data_config)
    members, buckets = train_members(dataset, data_config), data_config.buckets
    image_ids = np.asarray(dataset.image_ids)  # Once: a data set may collect them at each access.
    images_of = _streams(dataset, members, seed, data_config)

    # Several threads load the rows of a step separately and share its schedule.
    @functools.lru_cache(maxsize=16)
    def scheduled(step: int) -> tuple[int, np.ndarray]:
        return schedule(step, images_of, batch_size)

    rows = range(batch_size) if rows is None else rows

    def load(index: int) -> Batch:
        step, position = divmod(index, len(rows))
        bucket, indices = scheduled(step)
        chosen, before = indices[rows[position]], indices[: rows[position]]
        readable = _Readable(dataset, image_ids, step + 1, lost)
        example = readable[int(chosen)]
        if example is None:
            dtype = getattr(dataset, "image_dtype", "uint8")
            settings = {"num_channels": _channels(dataset), "dtype": dtype, "masks": masks}
            return nothing(int(image_ids[chosen]), buckets[bucket], data_config, **settings)
        repetition = int((before == chosen).sum())
        # An image id may be negative, but a seed may not.
        image_seed = (seed, 2, step, example.image_id % 2**32, repetition)
        own = stages.standard(data_config, readable) if transforms is None else transforms
        sample = stages.train_sample(example, image_seed, data_config, own)
        return pack(sample, buckets[bucket], data_config, masks=masks)

    loaded = grain.MapDataset.range(start_step * len(rows), sys.maxsize).map(load)
    return _read(loaded, len(rows), data_config)


def _streams(
    dataset: Dataset, members: list[Int[np.ndarray, " _"]], seed: int, data_config: DataConfig
) -> Streams:
    """The images of each bucket, weighted by set and by class as the config says."""
    mixed = None
    if isinstance(dataset, JointDataset):
        mixed = mixture(members, dataset.set_of_image, dataset.weights)
    repeats = sampling.expected(dataset.labels, data_config)
    return streams(members, seed, mixture=mixed, repeats=repeats)


class _Readable:
    """The images of a data set at one step; those that cannot be read are None and on record."""

    def __init__(
        self,
        dataset: Dataset,
        image_ids: Int[np.ndarray, " n"],
        step: int,
        lost: LostImages | None,
    ):
        """Takes the step as the log counts it, from 1. Without a record, errors are raised."""
        self._dataset, self._image_ids = dataset, image_ids
        self._step, self._lost = step, lost

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example | None:
        if self._lost is None:
            return self._dataset[index]
        image_id = int(self._image_ids[index])
        if self._lost.reason(self._step, image_id) is not None:
            return None
        try:
            return self._dataset[index]
        except (OSError, ValueError, MemoryError) as error:
            self._lost.add(self._step, image_id, str(error))
            return None


def eval_batches(
    dataset: Dataset,
    data_config: DataConfig,
    *,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    masks: bool = True,
    lost: dict[int, str] | None = None,
) -> Iterator[EvalBatch]:
    """Yields every image once, bucket by bucket, as float32, with its ground truth.

    The last image of a bucket is repeated to fill the last batch. OpenCV, if installed, is limited
    to one thread in the whole process.

    Args:
        dataset: The images and their objects.
        data_config: Gives sizes, buckets, slots and threads.
        batch_size: Images per batch.
        share: The index of this process and the number of processes that divide the images.
        masks: Whether the batches have masks.
        lost: Gets the reasons, by image id, of images that cannot be read; they become images of
            size 0, see `pack.nothing`. Without it they are errors.

    Raises:
        ValueError: The data set is empty, an image fits no bucket, or ``data.mask_store`` is
            unknown.
        OSError: An image cannot be read, and ``lost`` is None.
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
        try:
            example = dataset[index]
        except (OSError, ValueError, MemoryError) as error:
            if lost is None:
                raise
            image_id = int(dataset.image_ids[index])
            lost[image_id] = str(error)
            settings = {"num_channels": _channels(dataset), "dtype": "float32", "masks": masks}
            empty = nothing(image_id, bucket, data_config, **settings)
            return EvalBatch(empty, np.zeros(2, np.int32), np.bool_(real))
        batch = pack(eval_view(example, data_config), bucket, data_config, masks=masks)
        return EvalBatch(batch, np.array(example.image.shape[:2], np.int32), np.bool_(real))

    return _read(grain.MapDataset.source(rows).map(load), batch_size, data_config)


def _channels(dataset: Dataset) -> int:
    return getattr(dataset, "num_channels", 3)


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
