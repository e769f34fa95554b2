"""A step of training has the same loss and parameters with and without microbatches."""

from functools import partial

import jax
import numpy as np
import optax
import pytest

from maskrcnn_jax import execution, training
from maskrcnn_jax.config import ExecutionConfig
from maskrcnn_jax.model import MaskRCNN
from tests.conftest import QUICK_COMPILE, smooth_activations
from tests.test_model import make_batch

KEY = jax.random.key(7)
OPTIMIZER = optax.sgd(0.01)


def take_step(model, variables, *, average=False, **settings):
    state = training.create_state(variables, OPTIMIZER, average=average)
    step = partial(training.train_step, model=model, optimizer=OPTIMIZER, **settings)
    return state, *jax.jit(step, compiler_options=QUICK_COMPILE)(state, make_batch(), KEY)


@pytest.mark.slow  # Two programs with gradients to compile.
def test_microbatches_of_unequal_counts_and_recomputed_activations_change_nothing(
    tiny, monkeypatch
):
    """The images have zero to four objects each, so means of means would be wrong.

    A smooth function replaces the ReLU: rounding flips single ReLUs, which changes the gradients
    of some kernels by a thousandth.
    """
    smooth_activations(monkeypatch)
    _, expected, expected_metrics = take_step(tiny.model, tiny.variables)
    run = execution.choose(ExecutionConfig(rematerialise=True))
    model = MaskRCNN(tiny.model.config, tiny.model.detection, run)
    before, after, metrics = take_step(
        model, tiny.variables, average=True, num_microbatches=4, average_decay=0.9
    )
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    for start, ours, theirs in zip(
        *map(jax.tree.leaves, (before.params, after.params, expected.params)), strict=True
    ):
        assert np.linalg.norm(ours - theirs) <= 5e-4 * np.linalg.norm(theirs - start)
    assert int(after.step) == 1
    # The decay of the average in the first step is 1 / 10.
    for start, new, average in zip(
        *map(jax.tree.leaves, (before.params, after.params, after.average)), strict=True
    ):
        np.testing.assert_allclose(average, 0.1 * start + 0.9 * new, rtol=1e-4, atol=1e-7)


def test_a_batch_that_cannot_be_divided_is_refused(tiny):
    with pytest.raises(
        ValueError, match="8 images cannot be divided into execution.num_microbatches=3"
    ):
        take_step(tiny.model, tiny.variables, num_microbatches=3)
