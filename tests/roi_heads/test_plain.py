"""The heads of Mask R-CNN: what they pool, and which RoIs train the masks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import targets
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import BoxHeadConfig, ModelConfig
from maskrcnn_jax.roi_heads import plain
from maskrcnn_jax.settings import freeze
from maskrcnn_jax.structures import Batch, Detections, Instances, Proposals, RoITargets

NUM_ROIS = 8


def small_config(**fields):
    head = BoxHeadConfig(resolution=3, features=4)
    config = ModelConfig(num_classes=5, box_head=head, **fields)
    config.roi.num_samples, config.roi.positive_fraction = NUM_ROIS, 0.25
    return freeze(config)


def rois():
    boxes = jnp.arange(NUM_ROIS * 4, dtype=jnp.float32).reshape(1, NUM_ROIS, 4)
    numbers = jnp.arange(NUM_ROIS).reshape(1, -1)
    deltas = jnp.zeros((1, NUM_ROIS, 4))
    return RoITargets(boxes, numbers, deltas, numbers, numbers < 2, numbers >= 0)


def batch():
    nothing = jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), int), None, jnp.zeros((1, 1), bool)
    size = jnp.array([[32, 64]])
    return Batch(
        images=jnp.zeros((1, 32, 64, 3), jnp.uint8),
        sizes=size,
        canvas=2 * size,
        image_id=jnp.zeros(1, int),
        instances=Instances(*nothing),
        num_surplus=jnp.zeros(1, int),
    )


@pytest.fixture
def box_head():
    config = small_config()
    return plain.PlainBoxHead(
        config.box_head, config.num_classes, config.dtype, model=config, run=Execution()
    )


def test_boxes_are_predicted_from_features_of_their_resolution(box_head):
    """Only traced: nothing is compiled."""
    asked = []

    def pool(boxes, resolution):
        asked.append((boxes.shape, resolution))
        return jnp.zeros((1, NUM_ROIS, resolution, resolution, 2))

    proposals = Proposals(rois().boxes, jnp.ones((1, NUM_ROIS), bool))

    def run(key):
        return box_head.init_with_output(key, pool, proposals, batch().sizes, method="predict")

    (logits, deltas, found), variables = jax.eval_shape(run, jax.random.key(0))
    assert asked == [((1, NUM_ROIS, 4), 3)]
    assert logits.shape == (1, NUM_ROIS, 5) and deltas.shape == (1, NUM_ROIS, 5, 4)
    assert found.boxes.shape == proposals.boxes.shape
    assert variables["params"]["fc6"]["kernel"].shape == (3 * 3 * 2, 4)
    assert box_head.box_weights == small_config().roi.box_weights
    assert box_head.pool_for_masks(pool) is pool


def test_the_positive_rois_train_the_masks():
    """They come first, and a quarter of the samples are positive at most."""
    config, seen = small_config(), []

    def per_image(stage):
        assert stage.func is targets.mask_targets
        return lambda *arguments: (
            seen.append((stage.keywords, arguments)) or jnp.ones((1, 2, 28, 28))
        )

    positives, masks = plain.positives_and_masks(config, per_image, rois(), batch())
    ((rule, arguments),) = seen
    assert masks.all() and rule == {"resolution": 28, "rule": "share"}
    np.testing.assert_array_equal(positives.boxes, rois().boxes[:, :2])
    given, instances, sizes, canvas = arguments
    assert given is positives and instances.valid.shape == (1, 1)
    assert sizes.tolist() == [[32, 64]] and canvas.tolist() == [[64, 128]]


class Marks(nn.Module):
    """Mask logits of one cell: the left edge of the box, and the class."""

    def __call__(self, pooled, classes):
        return pooled[:, :, :, :, 0] + 100 * classes[:, :, None, None]


@pytest.mark.parametrize("chunk, drawn", [(None, 5), (2, 4), (3, 3), (9, 5)])
def test_probabilities_of_masks_are_computed_in_chunks(chunk, drawn):
    """A chunk without a detection is skipped."""
    boxes = -100.0 - jnp.arange(20.0).reshape(1, 5, 4)
    classes, valid = jnp.ones((1, 5), int), jnp.arange(5).reshape(1, 5) < 3
    detections = Detections(boxes, classes, jnp.zeros((1, 5)), None, valid)

    def pool(boxes, resolution):
        assert resolution == 1
        return boxes[:, :, :1].reshape(*boxes.shape[:2], 1, 1, 1)

    masks = plain.probabilities(Marks().bind({}), pool, detections, 1, chunk)
    expected = 1 / (1 + np.exp(4.0 * np.arange(5)))
    expected[drawn:] = 0
    np.testing.assert_allclose(masks.reshape(5), expected, rtol=1e-5)


def test_without_a_mask_head_nothing_learns_masks():
    with pytest.raises(AssertionError, match="a model without a mask head learns no masks"):
        plain.positives_and_masks(small_config(mask_head=None), jax.vmap, rois(), batch())
