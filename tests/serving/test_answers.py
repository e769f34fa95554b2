"""The answer of the server: detections in the pixels of the upload, as plain JSON values."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="uvicorn and starlette are the extra `serve`")

from maskrcnn_jax.serving import answers  # noqa: E402
from tests.serving.stand_in import SCORES, stand_in_detector  # noqa: E402

SIZE = 120, 180  # Resized to 64x96.


@pytest.fixture(scope="module")
def found():
    """A detector, and what it finds in an image whose left half is red."""
    detector = stand_in_detector()
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:, :90, 0] = 255
    (detections,) = detector.detect_resized([image], 0.0)
    return detector, detections


def answer(found, top_k=3, masks=True, deadline=None):
    deadline = time.monotonic() + 60 if deadline is None else deadline
    return answers.answer(*found, SIZE, top_k, masks, deadline)


def test_boxes_are_in_pixels_of_the_upload(found):
    content = json.loads(json.dumps(answer(found)))
    assert content["size"] == [120, 180]
    first, second, third = content["detections"]
    np.testing.assert_allclose(first["box"], [0, 0, 90, 120], atol=2)
    np.testing.assert_allclose(second["box"], 0.9 * np.array(first["box"]), rtol=1e-5)
    assert [x["score"] for x in (first, second, third)] == SCORES.tolist()
    assert (first["label"], first["category_id"], first["name"]) == (2, 9, "<b>dog")
    assert first["mask"]["size"] == [120, 180] and first["mask"]["counts"]


def test_the_best_are_kept_and_masks_left_out_on_request(found):
    detections = answer(found, top_k=2, masks=False)["detections"]
    assert [x["label"] for x in detections] == [2, 1] and "mask" not in detections[0]


def test_empty_slots_are_no_detections(found):
    detector, detections = found
    few = detections._replace(valid=np.array([False, True, False]))
    assert [x["label"] for x in answer((detector, few))["detections"]] == [1]


def test_after_the_deadline_nothing_is_pasted(found):
    with pytest.raises(TimeoutError):
        answer(found, deadline=time.monotonic() - 1)
