"""A detector answers any input with detections or one message; its model is a stand-in."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jaxtyping import TypeCheckError
from PIL import Image

from maskrcnn_jax.config import DataConfig, DetectionConfig
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.structures import Detections
from tests.fuzz import guard, mutations


class FindsCorners:
    """Detects boxes of which some are empty, thin, or larger than the image, in NumPy."""

    run = SimpleNamespace(jit=lambda function: function)

    def __init__(self):
        self.config, self.detection = ModelConfig(), DetectionConfig(num_detections=4)

    def apply(self, variables, images, sizes, canvas, threshold):
        assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1
        count = len(images)
        boxes = np.array([[0, 0, 9, 9], [5, 5, 5, 5], [0, 0, 64, 64], [3, 3, 3.01, 64]])
        boxes = np.repeat(boxes[None], count, 0).astype(np.float32)
        scores = np.repeat(np.array([[0.9, 0.8, 0.7, 0.6]], np.float32), count, 0)
        return Detections(
            boxes=boxes,
            classes=np.ones((count, 4), np.int32),
            scores=scores,
            masks=np.full((count, 4, 28, 28), 0.9, np.float32),
            valid=scores > threshold,
        )


DETECTOR = Detector(
    FindsCorners(),
    {},
    Categories((1,), ("a",)),
    DataConfig(test_short_side=32, test_max_long_side=64, test_buckets=((32, 64), (64, 32))),
)
shapes = st.lists(st.integers(0, 6) | st.sampled_from((1, 3, 4, 40, 300)), max_size=5).filter(
    lambda shape: np.prod(shape) < 1e6
)
dtypes = st.sampled_from(("u1", "u2", "i1", "i4", "i8", "f2", "f4", "f8", "?", "c8", "U3", "M8[s]"))


@st.composite
def images(draw):
    """An image, mostly of a wrong form."""
    shape = draw(st.sampled_from(((20, 30, 3), (7, 5), (1, 1, 3), (9, 9, 4))) | shapes.map(tuple))
    dtype = draw(dtypes)
    if draw(st.booleans()):
        return np.zeros(shape, dtype)
    fill = draw(arrays.from_dtype(np.dtype(dtype)))
    return np.full(shape, fill, dtype)


modes = st.sampled_from(("1", "L", "P", "RGB", "RGBA", "CMYK", "I", "F", "LA", "YCbCr", "I;16"))
pictures = st.builds(Image.new, modes, st.tuples(st.integers(0, 40), st.integers(0, 40)))
others = st.sampled_from([*mutations.ODD, b"abc", object(), range(3), {1: 2}, lambda: 0])
inputs = images() | pictures | others | st.lists(images() | pictures | others, max_size=3)
numbers = st.none() | st.floats() | st.integers() | st.sampled_from(("a", np.float32(0.5), [1]))


@given(
    given=inputs,
    threshold=st.none() | st.just(0.5) | numbers,
    top_k=st.none() | st.just(2) | numbers,
    form=st.sampled_from(("pasted", "cropped", "rle", "other")),
)
def test_calls(given, threshold, top_k, form):
    with guard.limits("test_calls", 1 << 20, base=256 << 20):
        try:
            found = DETECTOR(given, threshold, top_k, masks=form)
        except (ValueError, OSError, TypeCheckError) as error:  # The last comes in tests only.
            assert 0 < len(str(error)) < 8000
            return
        for each in found:
            assert set(each) == {"boxes", "labels", "scores", "masks"}
            assert np.isfinite(each["boxes"]).all() and len(each["boxes"]) == len(each["masks"])
