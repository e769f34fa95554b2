"""Run directories: what is saved comes back, and what does not fit is refused by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskrcnn_jax import checkpoints, training
from maskrcnn_jax.checkpoints import Checkpoints
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories

CATEGORIES = Categories((3, 7), ("cat", "dog"))


def make_state(value):
    variables = {name: {"a": jnp.full(3, value)} for name in ("params", "constants", "batch_stats")}
    state = training.create_state(variables, optax.sgd(0.1, momentum=0.9))
    return state._replace(step=jnp.array(int(value), jnp.int32))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_last_state_comes_back_and_old_ones_go(tmp_path):
    saved = Checkpoints(tmp_path, keep=2)
    for value in (1.0, 2.0, 3.0):
        saved.save(make_state(value))
        saved.save(make_state(value))  # The same step twice is one checkpoint.
    saved.close()
    opened = Checkpoints(tmp_path, keep=2)
    assert_equal(opened.restore(make_state(0.0)), make_state(3.0))
    opened.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["2", "3"]


def test_a_state_that_began_with_loaded_weights_is_restored(tmp_path):
    """Weights from a file are NumPy arrays, which know of no device."""
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(make_state(2.0))
    variables = {name: {"a": np.zeros(3, np.float32)} for name in ("params", "constants", "batch_stats")}
    state = training.create_state(variables, optax.sgd(0.1, momentum=0.9))
    assert_equal(saved.restore(state), make_state(2.0))
    saved.close()


def test_a_moving_average_comes_back_and_is_what_evaluation_reads(tmp_path):
    state = make_state(2.0)._replace(average={"a": jnp.full(3, 7.0)})
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(state)
    assert_equal(saved.restore(make_state(0.0)._replace(average={"a": jnp.zeros(3)})), state)
    saved.close()
    np.testing.assert_array_equal(state.variables["params"]["a"], [7.0] * 3)


def test_nothing_saved_restores_nothing(tmp_path):
    empty = Checkpoints(tmp_path, keep=1)
    assert empty.restore(make_state(0.0)) is None
    empty.close()


def test_another_model_in_the_same_directory_is_refused(tmp_path):
    checkpoints.write_run(tmp_path, Config(), CATEGORIES)
    changed = Config()
    changed.model.depth = 101
    with pytest.raises(ValueError, match=r"model\.depth: 50 -> 101"):
        checkpoints.write_run(tmp_path, changed, CATEGORIES)
    with pytest.raises(ValueError, match="categories"):
        checkpoints.write_run(tmp_path, Config(), Categories((1,), ("cat",)))


def test_other_settings_may_change_between_runs(tmp_path):
    checkpoints.write_run(tmp_path, Config(), CATEGORIES)
    checkpoints.write_run(tmp_path, Config(num_steps=7), CATEGORIES)
    assert json.loads((tmp_path / "config.json").read_text())["num_steps"] == 7


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        checkpoints.load_run(tmp_path)


def test_a_run_without_checkpoints_is_refused(tmp_path):
    checkpoints.write_run(tmp_path, Config(), CATEGORIES)
    with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
        checkpoints.load_run(tmp_path)


def test_a_broken_config_is_named(tmp_path):
    checkpoints.write_run(tmp_path, Config(), CATEGORIES)
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(ValueError, match="config.json"):
        checkpoints.load_run(tmp_path)
