"""torchvision's samples in our slots, and the stages that take them."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskrcnn_jax import targets, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.parity import training_replay
from maskrcnn_jax.parity.training_replay import Samples, Step

CANVAS, BUCKET = (64, 32), (64, 96)


def step(**changes):
    """A step of two images, of which the second has no positive sample."""
    fields = {
        "anchor_labels": [],
        "positive_anchors": [np.array([5, 3]), np.array([], int)],
        "negative_anchors": [np.array([0]), np.array([7])],
        "rois": [np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((1, 4), np.float32)],
        "roi_classes": [np.array([0, 2, 1]), np.array([0])],
        "roi_instances": [np.array([0, 1, 0]), np.array([0])],
        "mask_targets": [],
        "losses": {},
        "gradients": {},
    }
    return Step(**fields | changes)


def small_config():
    config = ModelConfig()
    config.rpn.num_samples, config.roi.num_samples = 4, 5
    return config


def test_the_anchors_of_a_canvas_have_places_in_the_bucket():
    """Theirs are ordered by row, column and ratio, ours by ratio, row and column."""
    config = small_config()
    places = training_replay.anchor_places(BUCKET, CANVAS, config)
    cells = [(16, 8), (8, 4), (4, 2), (2, 1), (1, 1)]
    assert len(places) == 3 * sum(h * w for h, w in cells) == len(set(places.tolist()))
    # P2 of the bucket has 16x24 cells; the anchor at row 1, column 2 with ratio 1.
    assert places[(1 * 8 + 2) * 3 + 1] == 1 * 16 * 24 + 1 * 24 + 2


def test_samples_fill_slots_with_the_positives_first():
    config = small_config()
    drawn = training_replay.draw(config, BUCKET, CANVAS, step())
    places = training_replay.anchor_places(BUCKET, CANVAS, config)
    assert drawn.anchors.tolist() == [[*places[[5, 3, 0]], 0], [places[7], 0, 0, 0]]
    assert drawn.positive_anchors.tolist() == [[True, True, False, False], [False] * 4]
    assert drawn.valid_anchors.sum(axis=1).tolist() == [3, 1]
    assert drawn.rois[0, :4].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3], [0] * 4]
    assert drawn.valid_rois.tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]


def test_only_the_sampling_stages_are_replaced():
    per_image = training_replay.replaying(Samples("anchors", "rois", None, None))
    assert per_image(partial(targets.anchor_targets, config=3))("any", "thing") == "anchors"
    assert per_image(targets.roi_targets)() == "rois"
    assert per_image(lambda x: 2 * x)(jnp.arange(3)).tolist() == [0, 2, 4]


def test_the_gradients_of_the_last_step_are_kept(monkeypatch):
    monkeypatch.setattr(training, "make_optimizer", lambda config, params: optax.sgd(0.5))
    params = {"a": jnp.ones(2)}
    optimizer = training_replay.make_optimizer(Config(), params)
    state = optimizer.init(params)
    assert state[0]["a"].tolist() == [0, 0]
    updates, state = optimizer.update({"a": jnp.full(2, 3.0)}, state, params)
    assert state[0]["a"].tolist() == [3, 3] and updates["a"].tolist() == [-1.5, -1.5]


def examples(*sizes):
    return [
        Example(
            np.full((*size, 3), 9, np.uint8),
            i,
            np.array([[1, 1, 9, 9]] * i, np.float32).reshape(-1, 4),
            np.ones(i, np.int32),
            [[[1, 1, 9, 1, 9, 9]]] * i,
        )
        for i, size in enumerate(sizes)
    ]


def test_batches_have_one_bucket_and_one_canvas():
    group = examples((40, 60), (40, 50), (60, 40), (64, 64))
    first, second = training_replay.batches([group[:2], group[2:]], 64, 128)
    assert first.images.shape == second.images.shape == (2, 96, 96, 3)
    assert first.canvas.tolist() == [[64, 96]] * 2 and second.canvas.tolist() == [[96, 64]] * 2
    assert first.instances.valid.shape == (2, 3)  # The largest number of objects.
    assert second.instances.valid.sum(axis=1).tolist() == [2, 3]
    assert first.image_id.tolist() == [0, 1] and second.image_id.tolist() == [2, 3]


def test_a_list_of_examples_is_a_data_set():
    dataset = training_replay.InMemory(examples((40, 60), (30, 20)))
    assert len(dataset) == 2 and dataset.sizes.tolist() == [[40, 60], [30, 20]]
    assert dataset.image_ids.tolist() == [0, 1] and [len(x) for x in dataset.labels] == [0, 1]
    assert dataset[1].image_id == 1
    with pytest.raises(IndexError):
        dataset[2]
