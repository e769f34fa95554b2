"""Compares our model with recordings of torchvision's: stages, and a step of training.

This needs no torch; ``tests/golden/write_torchvision.py`` made the recordings.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from maskrcnn_jax.config import Config, OptimizerConfig
from maskrcnn_jax.parity import recipe, training_replay
from maskrcnn_jax.parity.training_replay import Step
from maskrcnn_jax.structures import Batch
from maskrcnn_jax.weights import torchvision
from tests.conftest import QUICK_COMPILE
from tests.golden import inference, small

NUM_IMAGES = 2
LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
# The slow variant adds little: it has the backbone of v2, and the other parts of v1.
VARIANTS = (
    "v1",
    pytest.param("v2", marks=pytest.mark.slow),  # `make test-parity` compares it live.
    pytest.param("v1-batch-norm", marks=pytest.mark.slow),
)
quick_jit = partial(jax.jit, compiler_options=QUICK_COMPILE)


class Variant(NamedTuple):
    config: Config
    state: dict[str, np.ndarray]  # Weights by torchvision's names.
    golden: dict[str, Any]

    def pair(self, name):
        return [self.golden[f"{name}/{i}"] for i in range(NUM_IMAGES)]

    def step(self):
        """The recorded step of training."""
        names = set(Step._fields) - {"anchor_labels", "losses", "gradients"}
        losses = {name: float(self.golden[f"losses/{name}"]) for name in LOSSES}
        samples = {name: self.pair(name) for name in names}
        return Step(anchor_labels=[], gradients={}, losses=losses, **samples)


@pytest.fixture(scope="module")
def batch() -> Batch:
    groups = [small.examples()]
    (batch,) = training_replay.batches(groups, small.SHORT_SIDE, small.MAX_LONG_SIDE)
    return batch


def read(name):
    """Reads the configuration, weights and recording of a variant."""
    config = small.config(name)
    with np.load(small.FOLDER / f"{name}.npz") as file:
        golden = dict(file)
    state = recipe.state_dict(config.model)
    weights = small.sample(np.concatenate([np.ravel(array) for array in state.values()]))
    assert (weights == golden["weights"]).all(), (
        "other weights than recorded: run python -m tests.golden.write_torchvision"
    )
    return Variant(config, state, golden)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return read(request.param)


def test_inference(variant, batch):
    recorded = [
        {name: variant.golden[f"{name}/{i}"] for name in ("proposals", "boxes", "labels")}
        for i in range(NUM_IMAGES)
    ]
    variables = torchvision.from_state_dict(variant.state, variant.config.model)
    ours = inference.run(variant.config, variables, batch, recorded, quick_jit)
    for i, arrays in enumerate(ours):
        for name, array in arrays.items():
            theirs = variant.golden[f"{name}/{i}"]
            if name in small.WHOLE:
                np.testing.assert_allclose(array, theirs, atol=1e-3, err_msg=f"{name}/{i}")
            else:
                error = np.abs(small.sample(array) - theirs).max() / np.abs(theirs).max()
                assert error < 2e-5, f"{name}/{i}: {error}"


def train(variant, batch, step):
    """Takes a step at a learning rate of zero."""
    optimizer = OptimizerConfig(learning_rate=0.0, warmup_factor=1.0)
    model, state = variant.config.model, variant.state
    trainer = training_replay.Trainer(model, state, optimizer, quick_jit)
    samples, losses, gradients = trainer.step(batch, step)
    assert losses == pytest.approx(step.losses, rel=1e-5)
    for i in range(NUM_IMAGES):
        classes = step.roi_classes[i]
        order = np.argsort(classes == 0, kind="stable")
        np.testing.assert_array_equal(samples.rois.classes[i][: len(order)], classes[order])
    return trainer, samples, gradients


def test_a_step_of_training(variant, batch):
    step = variant.step()
    trainer, samples, gradients = train(variant, batch, step)
    for i in range(NUM_IMAGES):
        masks = samples.masks[i][: np.count_nonzero(step.roi_classes[i])]
        np.testing.assert_allclose(small.sample(masks), step.mask_targets[i], atol=1e-5)
    # Batch norm centres channels at zero, where rounding decides which inputs pass a ReLU.
    # torchvision on another number of threads differs from itself by as much.
    is_frozen = variant.config.model.backbone.norm == "frozen_batch"
    tolerance = 1e-3 if is_frozen else 2e-2
    for key in (key for key in variant.golden if key.startswith("gradients/")):
        theirs = variant.golden[key]
        error = np.linalg.norm(small.sample(gradients[key.removeprefix("gradients/")]) - theirs)
        assert error < tolerance * np.linalg.norm(theirs), f"{key}: {error}"
    for key in (key for key in variant.golden if key.startswith("statistics/")):
        ours = small.statistics(trainer.state_dict(), key.removeprefix("statistics/"))
        np.testing.assert_allclose(ours, variant.golden[key], rtol=1e-5, atol=1e-6)


def test_a_step_of_training_without_a_mask_head(batch):
    """The mask head changes neither the other losses nor the gradients of RPN and box head."""
    v1 = read("v1")
    v1.config.model.mask_head = None
    state = {name: array for name, array in v1.state.items() if ".mask_" not in name}
    faster = v1._replace(state=state)
    step = faster.step()
    losses = {name: loss for name, loss in step.losses.items() if name != "loss_mask"}
    _, samples, gradients = train(faster, batch, step._replace(losses=losses, mask_targets=[]))
    assert samples.masks is None
    for name in ("rpn.head.conv.0.0.weight", "roi_heads.box_head.fc6.weight"):
        theirs = faster.golden[f"gradients/{name}"]
        error = np.linalg.norm(small.sample(gradients[name]) - theirs)
        assert error < 1e-3 * np.linalg.norm(theirs), f"{name}: {error}"
