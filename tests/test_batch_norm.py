"""A model with batch norm in all parts, as in torchvision's v2: only training moves statistics."""

import copy
from functools import partial

import jax
import numpy as np
import optax
import pytest

from maskrcnn_jax import training
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig
from maskrcnn_jax.settings import from_dict, to_dict
from tests.conftest import QUICK_COMPILE, random_variables
from tests.test_model import make_batch

KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def model(tiny):
    config = copy.deepcopy(to_dict(tiny.model.config))
    for part in ("backbone", "fpn", "box_head", "mask_head"):
        config[part]["norm"] = "batch"
    config["backbone"]["frozen_stages"] = config["rpn"]["num_convs"] = 2
    config["box_head"] |= {"num_convs": 1, "channels": 16, "num_layers": 1}
    return MaskRCNN(from_dict(ModelConfig, config))


@pytest.fixture(scope="module")
def variables(model):
    return random_variables(model)


def losses_of(model):
    """The losses of a batch and the statistics after it, as a compiled function."""
    apply = partial(model.apply, method="losses", mutable=["batch_stats"])
    return jax.jit(lambda *args: apply(*args), compiler_options=QUICK_COMPILE)


def as_dict(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.slow  # The golden steps of torchvision's models cover most of this.
def test_a_step_moves_all_statistics_and_what_is_not_frozen(model, variables):
    optimizer = optax.sgd(0.1)
    state = training.create_state(variables, optimizer)
    step = jax.jit(
        partial(training.train_step, model=model, optimizer=optimizer),
        compiler_options=QUICK_COMPILE,
    )
    after, metrics = step(state, make_batch(), KEY)
    assert np.isfinite(metrics["loss"])
    for name, before in as_dict(state.batch_stats).items():
        moved = as_dict(after.batch_stats)[name]
        # Frozen stages too.
        assert np.isfinite(moved).all() and (moved != before).any(), name
    frozen = as_dict(training.frozen_mask(state.params, model.config.backbone))
    for name, before in as_dict(state.params).items():
        moved = as_dict(after.params)[name]
        assert np.isfinite(moved).all(), name
        if frozen[name]:
            np.testing.assert_array_equal(moved, before)


@pytest.mark.slow
def test_padding_moves_no_statistic(model, variables):
    """Padded pixels and empty slots do not count. Images share statistics, so they are equal.

    All proposals are samples, since rounding may change their order, and with it a random choice.
    """
    config = copy.deepcopy(to_dict(model.config))
    config["roi"] |= {"num_samples": 72, "positive_fraction": 1.0}
    losses = losses_of(MaskRCNN(from_dict(ModelConfig, config)))
    (expected, _), statistics = losses(variables, make_batch(), KEY)
    (found, _), padded = losses(variables, make_batch((96, 128), num_slots=6), KEY)
    for name, (total, count) in expected.items():
        np.testing.assert_allclose(found[name][0], total, rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(found[name][1], count, err_msg=name)
    for name, leaf in as_dict(statistics).items():
        np.testing.assert_allclose(
            as_dict(padded)[name], leaf, rtol=1e-3, atol=1e-4 * abs(leaf).max(), err_msg=name
        )


@pytest.mark.slow  # `tests/modules/test_mask_head.py` checks the head alone.
def test_a_batch_without_objects_leaves_the_statistics_of_the_mask_head_alone(model, variables):
    _, updated = losses_of(model)(variables, make_batch(num_objects=[0] * 8), KEY)
    before, after = as_dict(variables["batch_stats"]), as_dict(updated["batch_stats"])
    for name, old in before.items():
        assert np.isfinite(after[name]).all(), name
        assert (after[name] == old).all() == ("mask_head" in name), name
