"""A data set from outside the package; `tests/modules/test_backbones.py` trains on it."""

from collections import Counter

import numpy as np

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.data.dataset import Dataset, Example
from maskrcnn_jax.data.pipeline import eval_batches, train_batches
from tests.test_model import make_batch


class Squares:
    """Images with one bright square on black; its mask is a polygon."""

    categories = Categories((1, 2), ("small", "large"))
    sides = (12, 30, 12, 30, 20)
    sizes = np.array([(64, 96)] * len(sides))
    image_ids = np.arange(len(sides))
    labels = [np.array([1 + (side > 15)]) for side in sides]

    def __len__(self):
        return len(self.sides)

    def __getitem__(self, index):
        side, image = self.sides[index], np.zeros((64, 96, 3), np.uint8)
        image[10 : 10 + side, 20 : 20 + side] = 255
        box = [20, 10, 20 + side, 10 + side]
        outline = [box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]
        classes = self.labels[index].astype(np.int32)
        return Example(image, index, np.array([box], np.float32), classes, [[outline]])


CONFIG = DataConfig(
    short_sides=(64,),
    max_long_side=96,
    test_short_side=64,
    test_max_long_side=96,
    buckets=((64, 96),),
    test_buckets=((64, 96),),
    max_instances=4,
    mask_size=14,
)


def test_a_strange_data_set_is_a_data_set():
    assert isinstance(Squares(), Dataset)
    assert not isinstance(make_batch(), Dataset)


def test_a_strange_data_set_is_evaluated():
    batches = list(eval_batches(Squares(), CONFIG, batch_size=2))
    seen = Counter()
    for batch, original_sizes, real in batches:
        assert original_sizes.tolist() == [[64, 96]] * 2
        seen.update(batch.image_id[real].tolist())
        for image_id, image, box in zip(
            batch.image_id, batch.images, batch.instances.boxes[:, 0], strict=True
        ):
            x0, y0, x1, y1 = box.astype(int)
            assert (
                image[y0:y1, x0:x1].min() == 1 and image.sum() == 3 * Squares.sides[image_id] ** 2
            )
    assert seen == dict.fromkeys(range(5), 1)


def test_a_strange_data_set_gives_batches_for_training():
    batches = train_batches(Squares(), CONFIG, batch_size=5, seed=0)
    batch = next(batches)
    batches.close()
    assert sorted(batch.image_id.tolist()) == [0, 1, 2, 3, 4]
    for index, labels, box in zip(
        batch.image_id, batch.instances.classes, batch.instances.boxes[:, 0], strict=True
    ):
        assert labels.tolist() == [*Squares.labels[index], 0, 0, 0]
        assert (box[2:] - box[:2]).tolist() == [Squares.sides[index]] * 2
