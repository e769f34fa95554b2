"""Test-time augmentation of a stand-in with known results, and of a real model."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import resizing
from maskrcnn_jax.config import DataConfig, DetectionConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.execution import Execution
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.structures import Detections
from maskrcnn_jax.test_time_augmentation import AugmentedDetector
from tests.conftest import QUICK_COMPILE

CATEGORIES = Categories((5, 6, 7), ("a", "b", "c"))


class FindsRed:
    """Detects the red rectangle; scores and mask values grow with the size of the view."""

    def __init__(self, config=None):
        self.config, self.detection = config or ModelConfig(), DetectionConfig()
        self.run = Execution()
        self.widths, self.dtypes = [], []

    def apply(self, variables, *arguments, method):
        return getattr(self, method)(*arguments)

    def features(self, batch, sizes, canvas):
        self.widths.append(batch.shape[2])
        self.dtypes.append(batch.dtype.name)
        return {2: batch}

    def detect_boxes(self, pyramid, sizes, canvas, score_threshold):
        red = pyramid[2][..., 0] > 0.2
        x0, y0 = jnp.argmax(red.any(1), 1), jnp.argmax(red.any(2), 1)
        box = jnp.stack([x0, y0, x0 + red.any(1).sum(1), y0 + red.any(2).sum(1)], 1).astype(
            jnp.float32
        )
        boxes = jnp.stack([box, box + jnp.array([[1, 0, 1, 0]])], 1)
        score = sizes[0, 1] / 200
        scores = jnp.stack([score, score / 2]).reshape(1, 2).astype(jnp.float32)
        return Detections(boxes, jnp.array([[2, 3]]), scores, None, scores > score_threshold)

    def draw_masks(self, pyramid, detections, canvas):
        red = pyramid[2][0, :, :, 0]

        def draw(box):
            step = (jnp.arange(28) + 0.5) / 28
            columns = (box[0] + step * (box[2] - box[0])).astype(int)
            rows = (box[1] + step * (box[3] - box[1])).astype(int)
            return red[rows][:, columns]

        return jax.vmap(draw)(detections.boxes[0])[None] * canvas[0, 1] / 128


def data_config(buckets=((64, 96),)):
    return DataConfig(test_short_side=64, test_max_long_side=96, test_buckets=buckets)


def red_image(height=128, width=160):
    """Draws a rectangle whose left half is redder than its right half."""
    image = np.zeros((height, width, 3), np.uint8)
    image[40:80, 20:60, 0], image[40:80, 60:100, 0] = 255, 153
    return image


@pytest.fixture
def detector():
    return Detector(FindsRed(), {}, CATEGORIES, data_config())


def test_boxes_are_those_of_the_best_view_and_masks_the_mean(detector):
    augmented = AugmentedDetector(detector, scales=(0.5, 1.0, 1.5))
    (prediction,) = augmented(red_image(), score_threshold=0.0)
    # The view is 80 pixels wide at scale 1, so the largest view has the score 120 / 200.
    np.testing.assert_allclose(prediction["scores"], [0.6, 0.3], atol=1e-6)
    assert prediction["labels"].tolist() == [2, 3]
    np.testing.assert_allclose(prediction["boxes"][0], [20, 40, 100, 80], atol=1.5)
    mask = prediction["masks"][0, 0]
    mean = (64 + 96 + 128) / 3 / 128
    np.testing.assert_allclose(mask[45:75, 25:55], mean, atol=0.02)
    np.testing.assert_allclose(mask[45:75, 65:95], 0.6 * mean, atol=0.02)
    # Both directions of a view share the programs of its size.
    assert sorted(set(detector.model.widths)) == [64, 96, 160]


def test_mirrored_views_alone_find_the_same(detector):
    plain, flipped = (AugmentedDetector(detector, (1.0,), flip) for flip in (False, True))
    for augmented in (plain, flipped):
        assert len(augmented._views) == 1 + augmented._views[-1][1]
    only_mirrored = AugmentedDetector(detector, (1.0,))
    only_mirrored._views = only_mirrored._views[1:]
    expected, found = plain.detect(red_image()), only_mirrored.detect(red_image())
    np.testing.assert_allclose(found.boxes[0], expected.boxes[0], atol=1e-4)
    np.testing.assert_allclose(found.patches[0][0], expected.patches[0][0], atol=1e-6)
    # The model shifts the second box to the right in every view; mirroring reverses the shift.
    np.testing.assert_allclose(found.boxes[1] - expected.boxes[1], [-4, 0, -4, 0], atol=1e-4)


def test_threshold_and_number_are_those_of_the_call(detector):
    augmented = AugmentedDetector(detector)
    assert [
        len(augmented.detect(red_image(), threshold).boxes) for threshold in (0.0, 0.4, 0.9)
    ] == [2, 1, 0]
    assert len(augmented.detect(red_image(), 0.0, 1).boxes) == 1
    assert len(augmented([red_image(), red_image(64, 64)], masks="rle")) == 2
    compiled = len(detector.model.widths)
    augmented(red_image(), score_threshold=0.1)
    assert len(detector.model.widths) == compiled


def test_settings_are_those_of_the_detector():
    settings = {"batch_size": 3, "dtype": "uint8", "only_buckets": True}
    detector = Detector(FindsRed(), {}, CATEGORIES, data_config(), **settings)
    augmented = AugmentedDetector(detector, scales=(1.0, 1.5))
    assert {name: getattr(augmented, name) for name in settings} == settings
    assert len(augmented([red_image()] * 4)) == 4
    assert set(detector.model.dtypes) == {"uint8"}
    assert (
        augmented._views[0][0].place((300, 10)) == detector.place((300, 10)) != ((96, 3), (96, 32))
    )


def test_what_cannot_be_augmented_is_refused(detector):
    for scales in ((), (0.0,), (1.0, -1.0)):
        with pytest.raises(ValueError, match="positive numbers, got"):
            AugmentedDetector(detector, scales)
    with pytest.raises(ValueError, match="artifact"):
        exported = SimpleNamespace(apply=len, config=ModelConfig(), run=Execution())
        AugmentedDetector(Detector(exported, {}, CATEGORIES))


def test_without_a_mask_head_boxes_alone_are_merged():
    detector = Detector(FindsRed(ModelConfig(mask_head=None)), {}, CATEGORIES, data_config())
    (prediction,) = AugmentedDetector(detector, scales=(0.5, 1.0, 1.5))(red_image(), 0.0)
    assert "masks" not in prediction
    np.testing.assert_allclose(prediction["scores"], [0.6, 0.3], atol=1e-6)
    np.testing.assert_allclose(prediction["boxes"][0], [20, 40, 100, 80], atol=1.5)


@pytest.fixture(scope="module")
def real(tiny):
    """The tiny model with and without augmentation, on images that need no resizing."""
    with pytest.MonkeyPatch.context() as patch:
        quick = partial(jax.jit, compiler_options=QUICK_COMPILE)
        patch.setattr(Execution, "jit", lambda self, function: quick(function))
        plain = Detector(tiny.model, tiny.variables, CATEGORIES, data_config())
        plain._apply = tiny.detect
        yield plain, AugmentedDetector(plain, (1.0,))


def noise():
    return np.random.default_rng(3).integers(0, 256, (64, 80, 3)).astype(np.uint8)


def assert_equal(found, expected, atol):
    assert found.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=atol)
    for (mask, place), (expected_mask, expected_place) in zip(
        found.patches, expected.patches, strict=True
    ):
        assert place == expected_place
        np.testing.assert_allclose(mask, expected_mask, atol=1e-3)


@pytest.mark.slow
def test_equal_views_find_what_one_finds(real):
    plain, augmented = real
    views, augmented._views = augmented._views, [augmented._views[0]] * 2
    try:
        found, expected = (detector.detect(noise(), 0.1) for detector in (augmented, plain))
    finally:
        augmented._views = views
    assert len(expected.boxes) > 5
    assert_equal(found, expected, atol=1e-3)


@pytest.mark.slow
def test_the_mirror_image_has_the_mirrored_detections(real):
    _, augmented = real
    image = noise()
    found, expected = augmented.detect(resizing.mirror(image), 0.1), augmented.detect(image, 0.1)
    assert len(expected.boxes) > 5
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    x0, y0, x1, y1 = expected.boxes.T
    np.testing.assert_allclose(found.boxes, np.stack([80 - x1, y0, 80 - x0, y1], 1), atol=1e-4)
    pasted = [augmented(view, 0.1)[0]["masks"] for view in (resizing.mirror(image), image)]
    agreeing = (pasted[0] > 0.5) == (pasted[1][..., ::-1] > 0.5)
    # Truncation of boxes to whole pixels is not symmetric.
    assert agreeing.mean() > 0.97
