"""Arguments of a detector: one image or several, thresholds and numbers."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import detector_inputs

GREY = np.full((4, 5), 7, np.uint8)


def load(several):
    return list(detector_inputs.load_each(several, 3, "uint8"))


def test_one_image_or_several_of_any_kind(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    each = (GREY, str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(GREY))
    for image in each:
        (found,) = load(image)
        assert found.shape == (4, 5, 3) and (found == 7).all()
    assert len(load(each)) == len(load(iter(each))) == 4
    batch = np.zeros((2, 4, 5, 3), np.uint8)
    assert len(load(batch)) == len(load(jnp.asarray(batch))) == 2


def test_images_are_loaded_one_after_the_other():
    found = detector_inputs.load_each(iter([GREY, None]), 3, "uint8")
    assert next(found).shape == (4, 5, 3)
    with pytest.raises(ValueError, match="image 1: "):
        next(found)


@pytest.mark.parametrize("several", [None, 5, {"image": GREY}, b"\x89PNG"])
def test_what_is_no_image_is_named(several):
    with pytest.raises(ValueError, match="got (NoneType|int|dict|bytes)"):
        load(several)


def test_batches_keep_the_order():
    assert list(detector_inputs.batches(iter("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(detector_inputs.batches(iter(""), 2)) == []


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations are only checked in tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("value", [0.25, np.float64(0.25), np.array(0.25), jnp.array(0.25)])
def test_thresholds_of_any_kind(unchecked, value):
    found = detector_inputs.checked_threshold(value)
    assert found == 0.25 and type(found) is np.float32
    assert detector_inputs.checked_threshold(1) == 1
    assert detector_inputs.checked_threshold(1e300) == np.inf


@pytest.mark.parametrize(
    "value, message",
    [
        (float("nan"), "is NaN: give a number, 0 for all detections"),
        ("0.5", "must be a number, got '0.5'"),
        ([0.5], r"must be a number, got \[0.5\]"),
        (True, "must be a number, got True"),
        (None, "must be a number, got None"),
    ],
)
def test_what_is_no_threshold(unchecked, value, message):
    with pytest.raises(ValueError, match=f"score_threshold {message}"):
        detector_inputs.checked_threshold(value)


def test_the_number_of_detections(unchecked):
    assert detector_inputs.checked_top_k(None, 100) == 100
    assert detector_inputs.checked_top_k(1, 100) == 1
    assert detector_inputs.checked_top_k(np.int64(100), 100) == 100
    for value, message in (
        (0, "from 1 to 100, the model's detection.num_detections, got 0"),
        (101, "got 101; for more, build the model with more of them"),
        (1.5, "top_k must be a whole number, got 1.5"),
        ("3", "top_k must be a whole number, got '3'"),
        (True, "top_k must be a whole number, got True"),
    ):
        with pytest.raises(ValueError, match=message):
            detector_inputs.checked_top_k(value, 100)
