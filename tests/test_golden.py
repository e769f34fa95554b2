"""Our model against recordings of torchvision's, stage by stage, and for one step of training: no torch needed.

``tests/golden/write_torchvision.py`` says what is recorded and writes it anew.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from maskrcnn_jax.config import ModelConfig, OptimizerConfig
from maskrcnn_jax.parity import recipe, training_replay
from maskrcnn_jax.parity.training_replay import Step
from maskrcnn_jax.structures import Batch
from maskrcnn_jax.weights import torchvision
from tests.conftest import QUICK_COMPILE
from tests.golden import inference, small

NUM_IMAGES = 2
LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
# The slow one repeats the others: its backbone is that of v2, its other parts are those of v1.
VARIANTS = ("v1", "v2", pytest.param("v1-batch-norm", marks=pytest.mark.slow))
quick_jit = partial(jax.jit, compiler_options=QUICK_COMPILE)


class Variant(NamedTuple):
    config: ModelConfig
    state: dict[str, np.ndarray]  # Weights by torchvision's names.
    batch: Batch
    golden: dict[str, Any]

    def pair(self, name):
        return [self.golden[f"{name}/{i}"] for i in range(NUM_IMAGES)]


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    config = small.config(request.param)
    (batch,) = training_replay.batches([small.examples()], small.SHORT_SIDE, small.MAX_LONG_SIDE)
    with np.load(small.FOLDER / f"{request.param}.npz") as file:
        golden = dict(file)
    state = recipe.state_dict(config)
    weights = small.sample(np.concatenate([np.ravel(array) for array in state.values()]))
    assert (weights == golden["weights"]).all(), (
        "other weights than recorded: run python -m tests.golden.write_torchvision"
    )
    return Variant(config, state, batch, golden)


def test_inference(variant):
    names = "proposals", "boxes", "labels"
    recorded = [dict(zip(names, arrays, strict=True)) for arrays in zip(*map(variant.pair, names), strict=True)]
    variables = torchvision.from_state_dict(variant.state, variant.config)
    ours = inference.run(variant.config, variables, variant.batch, recorded, quick_jit)
    for i, arrays in enumerate(ours):
        for name, array in arrays.items():
            theirs = variant.golden[f"{name}/{i}"]
            if name in ("proposals", "boxes", "labels", "scores"):
                np.testing.assert_allclose(array, theirs, atol=1e-3, err_msg=f"{name}/{i}")
            else:
                error = np.abs(small.sample(array) - theirs).max() / np.abs(theirs).max()
                assert error < 2e-5, f"{name}/{i}: {error}"


def test_a_step_of_training(variant):
    names = [name for name in Step._fields if name not in ("anchor_labels", "losses", "gradients")]
    losses = {name: float(variant.golden[f"losses/{name}"]) for name in LOSSES}
    step = Step(anchor_labels=[], gradients={}, losses=losses, **{name: variant.pair(name) for name in names})
    trainer = training_replay.Trainer(
        variant.config, variant.state, OptimizerConfig(learning_rate=0.0, warmup_factor=1.0), quick_jit
    )
    samples, found, gradients = trainer.step(variant.batch, step)
    for i in range(NUM_IMAGES):
        order = np.argsort(step.roi_classes[i] == 0, kind="stable")
        np.testing.assert_array_equal(samples.rois.classes[i][: len(order)], step.roi_classes[i][order])
        masks = samples.masks[i][: np.count_nonzero(step.roi_classes[i])]
        np.testing.assert_allclose(small.sample(masks), step.mask_targets[i], atol=1e-5)
    assert found == pytest.approx(losses, rel=1e-5)
    # Batch norm centres channels on zero, where rounding decides what passes a ReLU: torchvision differs from itself by
    # as much when it runs on another number of threads.
    tolerance = 1e-3 if variant.config.norm == "frozen_batch" else 2e-2
    for key in (key for key in variant.golden if key.startswith("gradients/")):
        theirs = variant.golden[key]
        error = np.linalg.norm(small.sample(gradients[key.removeprefix("gradients/")]) - theirs)
        assert error < tolerance * np.linalg.norm(theirs), f"{key}: {error / np.linalg.norm(theirs)}"
    for key in (key for key in variant.golden if key.startswith("statistics/")):
        ours = small.statistics(trainer.state_dict(), key.removeprefix("statistics/"))
        np.testing.assert_allclose(ours, variant.golden[key], rtol=1e-5, atol=1e-6)
