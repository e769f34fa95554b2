"""Compares training with torchvision live, on the same samples.

`maskrcnn_jax.parity.training` runs the comparison at full size.
"""

import os
from functools import partial

import jax
import pytest

# torch's warnings differ between versions.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch", reason="the live comparison needs torch")
if not os.environ.get("MASKRCNN_JAX_SHARED"):
    reason = "MASKRCNN_JAX_SHARED does not name the folder with the photographs"
    pytest.skip(reason, allow_module_level=True)

from maskrcnn_jax.data.coco import CocoDataset  # noqa: E402
from maskrcnn_jax.parity import recipe, training, training_weights  # noqa: E402
from tests.conftest import QUICK_COMPILE  # noqa: E402
from tests.parity import smooth  # noqa: E402

quick_jit = partial(jax.jit, compiler_options=QUICK_COMPILE)


@pytest.fixture(scope="module")
def batches(shared):
    """Pairs of photographs with some of their objects, see `training.OBJECTS`."""
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


def changes(rows):
    return {row.quantity for row in rows if row.quantity.startswith("change")}


def test_a_step_with_frozen_norms(batches):
    rows = compare("v1", batches[1:2], 320, 128)
    assert changes(rows) == {"change of the weights"}
    assert all(row.passed for row in rows)


@pytest.mark.slow
def test_a_step_without_a_mask_head(batches):
    rows = compare("faster-v1", batches[1:2], 128, 64)
    assert changes(rows) == {"change of the weights"}
    assert not any("mask" in row.quantity for row in rows)
    assert all(row.passed for row in rows)


@pytest.mark.slow
def test_steps_with_norms_everywhere_and_batches_without_objects(batches):
    rows = compare("v2", batches[1:], 128, 64)
    assert {row.quantity for row in rows} == set(training.TOLERANCES)
    assert all(row.passed for row in rows)


@pytest.mark.slow
def test_a_step_of_a_convnext(batches, monkeypatch):
    """With a smooth function for the ReLUs of the heads: its weights cannot settle."""
    smooth.use(monkeypatch)
    config = recipe.config("convnext-tiny")
    config.backbone.drop_path, config.roi.num_samples = 0.0, 64
    state, sides = recipe.state_dict(config), {"short_side": 128, "max_long_side": 256}
    rows = training.compare_training(config, state, batches[1:2], jit=quick_jit, **sides)
    print(training.to_markdown(rows))
    # One step of this rate is near the rounding of the weights, so their change is not judged.
    assert all(row.passed for row in rows if not row.quantity.startswith("change"))
