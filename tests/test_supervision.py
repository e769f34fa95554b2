"""The line of `docs/detect.md` that makes supervision's `Detections` of a prediction."""

from types import SimpleNamespace

import numpy as np
import pytest

from maskrcnn_jax.data.categories import Categories
from tests import markdown

pytestmark = pytest.mark.parity
PAGE = markdown.ROOT / "docs" / "detect.md"


def prediction(count):
    """Objects of an image of 40x60 pixels, as a detector returns them."""
    boxes = np.array([[5, 5, 25, 35], [30, 10, 55, 30]], np.float32)[:count]
    masks = np.zeros((count, 1, 40, 60), np.float32)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[0, y0:y1, x0:x1] = np.linspace(0.2, 1, x1 - x0)
    scores = np.array([0.9, 0.75], np.float32)[:count]
    return {"boxes": boxes, "labels": np.array([2, 1])[:count], "scores": scores, "masks": masks}


# It imports matplotlib, which warns of what it itself calls.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, 0])
def test_the_line_of_the_page(count):
    sv = pytest.importorskip("supervision", reason="pip install supervision")
    (block,) = [x for x in markdown.blocks(PAGE.read_text()) if "supervision" in x.code]
    found, image = prediction(count), np.full((40, 60, 3), 90, np.uint8)
    detector = SimpleNamespace(categories=Categories((1, 7), ("cat", "dog")))
    names = {"prediction": found, "detector": detector, "image": image}
    exec(compile(block.code, str(PAGE), "exec"), names)
    detections = names["detections"]
    assert isinstance(detections, sv.Detections) and len(detections) == count
    np.testing.assert_array_equal(detections.xyxy, found["boxes"])
    np.testing.assert_array_equal(detections.confidence, found["scores"])
    np.testing.assert_array_equal(detections.mask, found["masks"][:, 0] > 0.5)
    np.testing.assert_array_equal(detections.class_id, found["labels"])
    assert list(detections["class_name"]) == ["dog", "cat"][:count]
    assert (names["drawn"] != image).any() == (count > 0)
