"""torchvision's inputs and weights in the training comparison; test_training_live.py trains."""

import numpy as np
import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the module runs torchvision")

from maskrcnn_jax.data.dataset import Example  # noqa: E402
from maskrcnn_jax.parity import training_reference  # noqa: E402

torch = training_reference.torch


def test_images_and_objects_become_torchvisions():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    boxes, classes = np.array([[0, 0, 2, 1]], np.float32), np.array([7], np.int32)
    example = Example(pixels, 5, boxes, classes, [[[0, 0, 2, 0, 2, 1, 0, 1]]])
    (image,), (target,) = training_reference.inputs([example])
    assert image.shape == (3, 2, 3) and image.dtype == torch.float32
    assert image[2, 1, 0] == pytest.approx(pixels[1, 0, 2] / 255)
    assert target["boxes"].tolist() == boxes.tolist() and target["labels"].dtype == torch.int64
    assert target["masks"].tolist() == [[[1, 1, 0], [0, 0, 0]]]


def test_an_image_without_objects_has_no_masks():
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), []
    _, (target,) = training_reference.inputs([Example(np.zeros((2, 3, 3), np.uint8), 1, *empty)])
    assert target["masks"].shape == (0, 2, 3)


def test_the_state_is_a_copy():
    model = torch.nn.Linear(2, 1)
    before = training_reference.state_dict(model)
    with torch.no_grad():
        model.bias += 1
    assert before["bias"] != training_reference.state_dict(model)["bias"]


def test_arguments_and_results_are_recorded():
    calls = {}
    function = training_reference._recorded(lambda a, b: a + b, "sum", calls)
    assert function(1, 2) == 3 and calls == {"sum": ((1, 2), 3)}
