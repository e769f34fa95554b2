import itertools
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn_jax import resizing
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import pipeline, rle
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Example
from tests.data import objects

BUCKETS = ((64, 96), (96, 64), (96, 96))


class _Discs:
    """A data set of images of given sizes with discs; image i has the id 100 + i."""

    def __init__(self, sizes, num_objects=2):
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        self.image_ids = 100 + np.arange(len(self.sizes))
        self.num_objects = num_objects
        self.categories = Categories.numbered(num_objects)
        self.labels = [np.arange(1, num_objects + 1)] * len(self.sizes)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index].tolist()
        rng = np.random.default_rng(index)
        rows, columns = np.mgrid[:height, :width]
        masks, boxes = [], []
        for _ in range(self.num_objects):
            y, x = rng.uniform(10, height - 10), rng.uniform(10, width - 10)
            radius = rng.uniform(6, 14)
            disc = np.asfortranarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2, np.uint8)
            masks.append(rle.encode(coco_mask.encode(disc), height, width))
            x, y, w, h = coco_mask.toBbox(masks[-1])
            boxes.append([x, y, x + w, y + h])
        return Example(
            image=rng.integers(0, 256, (height, width, 3), np.uint8),
            image_id=int(self.image_ids[index]),
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            classes=np.arange(1, self.num_objects + 1, dtype=np.int32),
            masks=masks,
        )


def _config(**changes):
    settings = dict(
        short_sides=(48, 64),
        max_long_side=96,
        test_short_side=64,
        test_max_long_side=96,
        buckets=BUCKETS,
        test_buckets=BUCKETS,
        max_instances=4,
        mask_size=28,
        num_threads=2,
    )
    return DataConfig(**settings | changes)


MIXED = [(50, 70), (70, 50), (50, 75), (48, 64), (60, 60), (75, 50), (50, 70)]


def _first(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def _assert_equal(a, b):
    for left, right in zip(a, b, strict=True):
        if isinstance(left, tuple):
            _assert_equal(left, right)
        else:
            np.testing.assert_array_equal(left, right)


def test_bad_data_sets_are_refused_at_once():
    with pytest.raises(ValueError, match="no images"):
        pipeline.train_batches(_Discs([]), _config(), batch_size=2, seed=0)
    with pytest.raises(ValueError, match="no images"):
        pipeline.eval_batches(_Discs([]), _config(), batch_size=2)


@pytest.mark.parametrize("field", ["buckets", "test_buckets"])
def test_an_image_that_fits_no_bucket_is_named_before_the_first_step(field):
    both, config = _Discs([(60, 60), (50, 100)]), _config(**{field: ((64, 64),)})
    message = (
        rf"data\.{field}: image id 101 of 50x100 pixels .*, "
        r"48x96 after resizing, fits none of \[\(64, 64\)\]"
    )
    with pytest.raises(ValueError, match=message):
        if field == "buckets":
            pipeline.train_batches(both, config, batch_size=2, seed=0)
        else:
            pipeline.eval_batches(both, config, batch_size=2)


def test_a_bad_mask_store_is_refused_at_once():
    message, config = "data.mask_store must be .*, got 'polygon'", _config(mask_store="polygon")
    with pytest.raises(ValueError, match=message):
        pipeline.train_batches(_Discs(MIXED), config, batch_size=2, seed=0)
    with pytest.raises(ValueError, match=message):
        pipeline.eval_batches(_Discs(MIXED), config, batch_size=2)


def test_batches_have_the_shapes_of_their_bucket_and_the_types_of_the_model():
    for batch in _first(pipeline.train_batches(_Discs(MIXED), _config(), batch_size=2, seed=0), 8):
        assert batch.images.shape[1:3] in BUCKETS and batch.images.dtype == np.uint8
        bucket = batch.images.shape[1:3]
        arrays = jax.tree.leaves((batch.instances, batch[1:4], batch.num_surplus))
        shapes = [array.shape for array in arrays]
        assert shapes == [(2, 4, 4), (2, 4), (2, 4, 28, 28), (2, 4), (2, 2), (2, 2), (2,), (2,)]
        dtypes = [array.dtype for array in arrays]
        assert dtypes == [np.float32, np.int32, np.uint8, np.bool_, *[np.int32] * 4]
        assert (batch.canvas % 32 == 0).all() and (batch.canvas >= batch.sizes).all()
        assert (batch.canvas - batch.sizes < 32).all() and (batch.canvas <= bucket).all()


def test_padding_is_zero_and_behind():
    batch = _first(pipeline.train_batches(_Discs([(50, 70)]), _config(), batch_size=2, seed=0), 1)[
        0
    ]
    for i, (height, width) in enumerate(batch.sizes):
        assert batch.images[i, :height, :width].any()
        assert not batch.images[i, height:].any() and not batch.images[i, :, width:].any()
    assert batch.instances.valid.tolist() == [[True, True, False, False]] * 2
    assert not batch.instances.boxes[:, 2:].any() and not batch.instances.masks.values[:, 2:].any()


def test_a_resumed_run_continues_bit_for_bit():
    dataset, config = _Discs(MIXED), _config(crop_size=60, vertical_flip=0.5)
    straight = _first(pipeline.train_batches(dataset, config, batch_size=3, seed=5), 7)
    resumed = _first(pipeline.train_batches(dataset, config, batch_size=3, seed=5, start_step=4), 3)
    for a, b in zip(straight[4:], resumed, strict=True):
        _assert_equal(a, b)


def test_the_number_of_threads_changes_nothing():
    dataset = _Discs(MIXED)
    alone, many = (
        _first(pipeline.train_batches(dataset, _config(num_threads=n), batch_size=3, seed=5), 4)
        for n in (0, 4)
    )
    for a, b in zip(alone, many, strict=True):
        _assert_equal(a, b)


def test_an_image_looks_different_every_time():
    batches = _first(
        pipeline.train_batches(_Discs([(50, 70)]), _config(crop_size=40), batch_size=1, seed=0), 6
    )
    assert len({batch.images.tobytes() for batch in batches}) == 6


def test_an_image_that_fills_a_batch_looks_different_every_time():
    dataset, config = _Discs([(50, 70)]), _config(crop_size=40)
    alone = _first(pipeline.train_batches(dataset, config, batch_size=1, seed=0), 3)
    batches = _first(pipeline.train_batches(dataset, config, batch_size=4, seed=0), 3)
    for batch, first in zip(batches, alone, strict=True):
        assert len({image.tobytes() for image in batch.images}) == 4
        jax.tree.map(lambda many, one: np.testing.assert_array_equal(many[:1], one), batch, first)


def test_objects_without_a_slot_are_counted():
    batches = pipeline.train_batches(_Discs(MIXED, num_objects=7), _config(), batch_size=2, seed=0)
    batch = _first(batches, 1)[0]
    assert batch.num_surplus.tolist() == [3, 3]
    assert batch.instances.classes.tolist() == [[1, 2, 3, 4]] * 2


def test_objects_that_transforms_remove_are_counted():
    config = _config(crop_fraction=(0.3, 0.4))
    batches = pipeline.train_batches(_Discs(MIXED, num_objects=4), config, batch_size=2, seed=0)
    batch = _first(batches, 1)[0]
    assert batch.num_removed.any() and not batch.num_surplus.any()
    assert (batch.num_removed + batch.instances.valid.sum(1)).tolist() == [4, 4]


def test_an_image_without_objects_has_no_valid_instances():
    batch = _first(
        pipeline.train_batches(_Discs(MIXED, num_objects=0), _config(), batch_size=2, seed=0), 1
    )[0]
    assert (
        not batch.instances.valid.any()
        and not batch.instances.boxes.any()
        and not batch.num_surplus.any()
    )


@pytest.mark.parametrize("horizontal, vertical", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_boxes_and_masks_stay_on_the_resized_and_flipped_objects(horizontal, vertical):
    dataset = _Discs([(50, 75)])
    example = dataset[0]
    config = _config(short_sides=(64,), horizontal_flip=horizontal, vertical_flip=vertical)
    batch = _first(pipeline.train_batches(dataset, config, batch_size=1, seed=0), 1)[0]
    height, width = batch.sizes[0].tolist()
    for slot, mask in enumerate(example.masks):
        bitmap = np.repeat(rle.decode(mask, 50, 75)[..., None], 3, axis=2) * np.uint8(255)
        expected = resizing.resize(bitmap, (height, width))[..., 0] > 0.5
        expected = expected[:: -1 if vertical else 1, :: -1 if horizontal else 1]
        pasted = objects.paste(
            batch.instances.masks.values[0, slot], batch.instances.boxes[0, slot], height, width
        )
        assert (pasted & expected).sum() / (pasted | expected).sum() > 0.95


@pytest.mark.parametrize("num_objects", [0, 2])
def test_whole_masks_lie_on_the_image_in_its_bucket(num_objects):
    dataset = _Discs([(50, 70)], num_objects)
    # Full masks have the size of the bucket, whatever the size of crops is.
    config = _config(mask_store="full", mask_size=32, short_sides=(64,), horizontal_flip=1.0)
    train = _first(pipeline.train_batches(dataset, config, batch_size=2, seed=0), 1)[0]
    test = next(pipeline.eval_batches(dataset, config, batch_size=1)).batch
    rows, columns = np.arange(64) * 50 // 64, np.arange(89) * 70 // 89
    for batch, turn in ((train, -1), (test, 1)):
        assert batch.instances.masks.values.shape == (len(batch.images), 4, 64, 96)
        assert batch.instances.masks.values.dtype == np.uint8 and batch.sizes[0].tolist() == [
            64,
            89,
        ]
        expected = np.zeros((4, 64, 96), np.uint8)
        for slot, mask in enumerate(dataset[0].masks):
            expected[slot, :, :89] = 255 * rle.decode(mask, 50, 70)[rows][:, columns][:, ::turn]
        np.testing.assert_array_equal(batch.instances.masks.values[0], expected)
    crops = _config(short_sides=(64,), horizontal_flip=1.0)
    cropped = _first(pipeline.train_batches(dataset, crops, batch_size=2, seed=0), 1)[0]
    np.testing.assert_array_equal(train.instances.boxes, cropped.instances.boxes)


@pytest.mark.parametrize("mask_store", ["crop", "full"])
def test_batches_without_masks_are_the_same_but_for_them(mask_store):
    dataset, config = _Discs(MIXED), _config(mask_store=mask_store)
    plain, boxes = (
        _first(pipeline.train_batches(dataset, config, batch_size=2, seed=0, masks=masks), 2)
        for masks in (True, False)
    )
    for a, b in zip(plain, boxes, strict=True):
        assert b.instances.masks is None
        jax.tree.map(
            np.testing.assert_array_equal, a._replace(instances=a.instances._replace(masks=None)), b
        )
    test = next(pipeline.eval_batches(dataset, config, batch_size=2, masks=False)).batch
    assert test.instances.masks is None and test.instances.valid.any()


OPENCV = """
import cv2
import numpy as np
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import pipeline
from maskrcnn_jax.data.shapes import ShapesDataset

cv2.setNumThreads(5)
for num_threads in (0, 2):
    sizes = {"short_sides": (64,), "max_long_side": 96, "buckets": ((96, 96),)}
    config = DataConfig(**sizes, num_threads=num_threads)
    next(pipeline.train_batches(ShapesDataset(2, 64, 0), config, batch_size=1, seed=0))
    print(cv2.getNumThreads())
"""


def test_opencv_is_limited_only_where_our_threads_work():
    pytest.importorskip("cv2")
    command = [sys.executable, "-c", OPENCV]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["5", "1"]


def test_evaluation_sees_each_image_once_bucket_by_bucket():
    dataset = _Discs(MIXED)
    batches = list(pipeline.eval_batches(dataset, _config(), batch_size=2))
    real = [image_id for batch in batches for image_id in batch.batch.image_id[batch.real].tolist()]
    assert sorted(real) == dataset.image_ids.tolist()
    shapes = [batch.batch.images.shape[1:3] for batch in batches]
    assert [shape for shape, _ in itertools.groupby(shapes)] == [b for b in BUCKETS if b in shapes]
    for batch in batches:
        assert batch.real[0] and len(batch.real) == 2
        np.testing.assert_array_equal(
            batch.original_sizes, dataset.sizes[batch.batch.image_id - 100]
        )


def test_evaluation_resizes_by_the_exact_rule():
    dataset = _Discs([(50, 70)])
    batch = next(pipeline.eval_batches(dataset, _config(), batch_size=1)).batch
    assert batch.images.dtype == np.float32 and batch.sizes.tolist() == [[64, 89]]
    np.testing.assert_array_equal(
        batch.images[0, :64, :89], resizing.resize(dataset[0].image, (64, 89))
    )
    scale = np.float32([89, 64, 89, 64]) / np.float32([70, 50, 70, 50])
    np.testing.assert_array_equal(batch.instances.boxes[0, :2], dataset[0].boxes * scale)


def test_processes_load_their_rows_of_the_same_batches():
    dataset, config = _Discs(MIXED), _config()
    whole = _first(pipeline.train_batches(dataset, config, batch_size=4, seed=5), 6)
    for rows in ([0, 2], [3]):
        part = _first(pipeline.train_batches(dataset, config, batch_size=4, seed=5, rows=rows), 6)
        for ours, theirs in zip(part, whole, strict=True):
            jax.tree.map(
                lambda a, b, rows=rows: np.testing.assert_array_equal(a, b[rows]), ours, theirs
            )


@pytest.mark.parametrize("num_processes", [2, 50])
def test_processes_share_the_images_of_an_evaluation(num_processes):
    dataset = _Discs(MIXED)
    shares = [
        pipeline.eval_batches(dataset, _config(), batch_size=2, share=(i, num_processes))
        for i in range(num_processes)
    ]
    seen = [
        image_id
        for share in shares
        for batch in share
        for image_id in batch.batch.image_id[batch.real].tolist()
    ]
    assert sorted(seen) == dataset.image_ids.tolist()


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_unreadable_image_raises_its_own_error(num_threads):
    class Broken(_Discs):
        def __getitem__(self, index):
            raise OSError(f"cannot read image {index}")

    dataset, config = Broken([(50, 70)]), _config(num_threads=num_threads)
    with pytest.raises(OSError, match="^cannot read image 0"):
        next(pipeline.train_batches(dataset, config, batch_size=2, seed=0))
    with pytest.raises(OSError, match="^cannot read image 0"):
        next(pipeline.eval_batches(dataset, config, batch_size=2))


def test_closing_the_iterator_ends_its_threads():
    batches = pipeline.train_batches(_Discs(MIXED), _config(), batch_size=2, seed=0)
    before = {
        thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")
    }
    next(batches)
    started = {
        thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")
    } - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()
