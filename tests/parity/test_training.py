"""The rows of the training comparison: errors, their places, and the verdict."""

import numpy as np
import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the module runs torchvision")

from maskrcnn_jax.data.coco import CocoDataset  # noqa: E402
from maskrcnn_jax.data.dataset import Example  # noqa: E402
from maskrcnn_jax.parity import training, training_replay  # noqa: E402
from tests.parity.test_training_replay import step  # noqa: E402


def test_a_change_is_judged_against_that_of_torchvision():
    zeros, ones = np.zeros(2), np.ones(2)
    before = {"a.weight": zeros, "b.weight": zeros, "bn.running_mean": ones}
    theirs = before | {"a.weight": np.array([3.0, 0.0]), "b.weight": np.array([0.0, 4.0])}
    ours = theirs | {"b.weight": np.array([0.0, 4.5])}
    row = training.Row("change of the weights", 0.1, "b.weight")
    assert training.change_rows(before, ours, theirs) == [row]
    (_, statistics) = training.change_rows(before, ours | {"bn.running_mean": zeros}, theirs)
    assert statistics == training.Row("change of the running means", np.inf, "bn.running_mean")


def test_the_largest_error_of_a_quantity_counts_and_nan_is_the_largest():
    errors = (1e-6, "a"), (float("nan"), "b"), (1.0, "c")
    rows = [training.Row("losses", error, where) for error, where in errors]
    (row,) = training.worst(rows)
    assert row.where == "b" and not row.passed
    assert "too much" in training.to_markdown([row])
    assert training.worst(rows[::2]) == [rows[2]]


def test_a_batch_with_fewer_objects_keeps_the_first_ones():
    class Photographs(training_replay.InMemory, CocoDataset):
        """Images 1 to 5, of which the third is not wide, and the fourth has no object."""

        sizes = labels = image_ids = categories = None  # Those of a list, not of a file.

    sizes, counts = [(2, 3), (2, 3), (3, 2), (2, 3), (2, 3)], (3, 2, 2, 0, 1)
    examples = [
        Example(
            np.zeros((*size, 3), np.uint8),
            i,
            np.zeros((count, 4), np.float32),
            np.arange(1, count + 1, dtype=np.int32),
            [None] * count,
        )
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True), start=1)
    ]
    dataset = Photographs(examples)
    first, second, third = training.choose(dataset, 3, 1)
    assert [[x.image_id, len(x.boxes), len(x.masks)] for (x,) in (first, second, third)] == [
        [1, 3, 3],
        [2, 2, 2],
        [5, 0, 0],
    ]
    with pytest.raises(ValueError, match="2 batches of 2 need as many images wider than high"):
        training.choose(dataset, 2, 2)


def test_the_loss_that_differs_most_is_named():
    row = training._loss_row(
        step(losses={"a": 2.0, "b": 0.0, "c": 4.0}), {"a": 2.1, "b": 0.01, "c": 4.0}
    )
    assert row.where == "a" and row.error == pytest.approx(0.05) and not row.passed


def test_a_gradient_of_nothing_but_rounding_is_no_error():
    gradients = {"a": np.full(4, 1.0), "b": np.full(4, 1e-9)}
    ours = {"a": np.full(4, 1.0), "b": np.full(4, 2e-9)}
    row = training._gradient_row(step(gradients=gradients), ours)
    assert row.where == "b" and row.error == pytest.approx(2e-9 / 2e-6, rel=1e-3)
    assert row.passed
