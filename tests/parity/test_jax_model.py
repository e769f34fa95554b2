"""The sizes, buckets and anchors of our side; test_live.py runs the model."""

import flax.linen as nn
import numpy as np
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.parity import jax_model
from maskrcnn_jax.parity.jax_model import JaxModel, _is_recorded


def image(height, width):
    return np.full((height, width, 3), 255, np.uint8)


def test_sizes_and_buckets_are_those_of_a_detector():
    model = JaxModel(Config(), {})
    assert model.size(image(480, 640)) == (800, 1066)
    assert model.size(image(100, 1000)) == (133, 1333)
    assert model.bucket([(800, 1066)]) == (800, 1088)
    assert model.bucket([(800, 1066), (1066, 800)]) == (1088, 1088)
    assert model.bucket([(2000, 10)]) == (2016, 32)  # A new one.


def test_buckets_scale_with_the_sides():
    model = JaxModel(Config(), {}, short_side=400, max_long_side=667)
    assert model.size(image(480, 640)) == (400, 533)
    assert model.bucket([(400, 533)]) == (416, 544)


def test_a_vit_sees_a_square():
    config = presets.detectron2_vitdet_b(4)
    model = JaxModel(config, {}, short_side=1024, max_long_side=1024)
    assert model.square == (1024, 1024) and model.bucket([(768, 1024)]) == (1024, 1024)


def test_images_are_resized_and_padded_to_a_batch():
    model = JaxModel(Config(), {}, short_side=64, max_long_side=128)
    batch = model.pad([image(32, 32), image(64, 100)], (96, 128))
    assert batch.shape == (2, 96, 128, 3) and batch.dtype == np.float32
    assert (batch[0] > 0).sum() == 64 * 64 * 3 and (batch[1] > 0).sum() == 64 * 100 * 3


def test_anchors_are_in_the_order_of_the_peers(monkeypatch):
    """By row, column and ratio; ours are ordered by ratio, row and column."""

    def pyramid_anchors(shapes, canvas, **rule):
        counts = {level: 3 * height * width for level, (height, width) in shapes.items()}
        numbered = {
            level: np.arange(count)[:, None].repeat(4, 1) for level, count in counts.items()
        }
        return {level: (boxes, None) for level, boxes in numbered.items()}

    monkeypatch.setattr(jax_model.anchors, "pyramid_anchors", pyramid_anchors)
    found = JaxModel(Config(), {}).anchors((64, 96))
    assert {level: len(x) for level, x in found.items()} == {
        2: 16 * 24 * 3,
        3: 8 * 12 * 3,
        4: 4 * 6 * 3,
        5: 2 * 3 * 3,
        6: 1 * 2 * 3,
    }
    assert found[6][:, 0].tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    "name, method, recorded",
    [
        ("rpn", "__call__", True),
        ("box_head", "predict", True),
        ("box_head", "refine", True),
        (None, "propose", True),
        ("box_head", "__call__", False),
        ("mask_head", "predict", False),
    ],
)
def test_only_scores_and_proposals_are_recorded(name, method, recorded):
    assert _is_recorded(nn.Dense(1, name=name), method) == recorded
