"""Training against torchvision's, live, on the same samples; `maskrcnn_jax.parity.training` runs it at full size."""

import os
from functools import partial

import jax
import numpy as np
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # torch's warnings differ between versions.
pytest.importorskip("torch", reason="the live comparison needs torch")
if not os.environ.get("MASKRCNN_JAX_SHARED"):
    pytest.skip("MASKRCNN_JAX_SHARED does not name the folder with the photographs", allow_module_level=True)

from maskrcnn_jax.data.coco import CocoDataset  # noqa: E402
from maskrcnn_jax.parity import recipe, training, training_weights  # noqa: E402
from tests.conftest import QUICK_COMPILE  # noqa: E402

quick_jit = partial(jax.jit, compiler_options=QUICK_COMPILE)


@pytest.fixture(scope="module")
def batches(shared):
    """Two photographs with objects; one with and one without; two without; one with a single object and one without."""
    root = shared / "data" / "coco_subset"
    dataset = CocoDataset(root / "val", root / "instances_val.json", keep_empty=False)
    return training.choose(dataset, 4, 2)


def compare(variant, batches, short_side, num_rois):
    config = recipe.config(variant)
    config.roi.num_samples = num_rois
    sides = {"short_side": short_side, "max_long_side": 2 * short_side}
    state = training_weights.settled(config, batches, **sides)
    rows = training.compare_training(config, state, batches, jit=quick_jit, **sides)
    print(training.to_markdown(rows))
    return rows


def test_a_step_with_frozen_norms(batches):
    rows = compare("v1", batches[1:2], 320, 128)
    assert {row.quantity for row in rows if row.quantity.startswith("change")} == {"change of the weights"}
    assert all(row.passed for row in rows)


@pytest.mark.slow
def test_steps_with_norms_everywhere_and_batches_without_objects(batches):
    rows = compare("v2", batches[1:], 128, 64)
    assert {row.quantity for row in rows} == set(training.TOLERANCES)
    assert all(row.passed for row in rows)


def test_a_change_is_judged_against_that_of_torchvision():
    before = {"a.weight": np.zeros(2), "b.weight": np.zeros(2), "bn.running_mean": np.ones(2)}
    theirs = {"a.weight": np.array([3.0, 0.0]), "b.weight": np.array([0.0, 4.0]), "bn.running_mean": np.ones(2)}
    ours = theirs | {"b.weight": np.array([0.0, 4.5])}
    assert training.change_rows(before, ours, theirs) == [training.Row("change of the weights", 0.1, "b.weight")]
    (_, statistics) = training.change_rows(before, ours | {"bn.running_mean": np.zeros(2)}, theirs)
    assert statistics == training.Row("change of the running means", np.inf, "bn.running_mean")


def test_the_largest_error_of_a_quantity_counts_and_no_number_is_the_largest():
    rows = [training.Row("losses", error, where) for error, where in ((1e-6, "a"), (float("nan"), "b"), (1.0, "c"))]
    (row,) = training.worst(rows)
    assert row.where == "b" and not row.passed
    assert "too much" in training.to_markdown([row])
    assert training.worst(rows[::2]) == [rows[2]]
