"""Run directories: what is saved comes back, and what does not fit is refused by name."""

import json
import os
import shutil

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


def test_the_best_stay_beside_the_newest(tmp_path):
    saved = Checkpoints(tmp_path, keep=1, keep_best=2)
    for value, score in ((1.0, 0.3), (2.0, 0.5), (3.0, 0.5), (4.0, 0.1), (5.0, None)):
        saved.save(make_state(value))
        if score is not None:
            saved.rate(int(value), score)
    saved.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["2", "3", "5"]


def broken_copies():
    """What a machine that lost power, or a hand, may leave of a checkpoint."""

    def without_an_item(path):
        shutil.rmtree(path / "variables")

    def without_data(path):
        for data in (path / "training").glob("**/d/*"):
            os.truncate(data, 0)

    def without_manifest(path):
        (path / "variables" / "manifest.ocdbt").unlink()

    def with_half_its_metadata(path):
        os.truncate(path / "training" / "_METADATA", 20)

    return [without_an_item, without_data, without_manifest, with_half_its_metadata]


# The reads that Orbax has under way when one of them fails end in a loop that is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", broken_copies(), ids=lambda damage: damage.__name__)
def test_a_broken_checkpoint_is_set_aside_for_the_one_before(tmp_path, damage, capsys):
    saved = Checkpoints(tmp_path, keep=3)
    for value in (1.0, 2.0):
        saved.save(make_state(value))
    saved.close()
    damage(tmp_path / "checkpoints" / "2")
    opened = Checkpoints(tmp_path, keep=3)
    assert_equal(opened.restore(make_state(0.0)), make_state(1.0))
    assert f"cannot read {tmp_path / 'checkpoints' / '2'}" in capsys.readouterr().err
    opened.save(make_state(2.0))
    assert_equal(opened.restore(make_state(0.0)), make_state(2.0))
    opened.close()
    assert (tmp_path / "checkpoints" / "2.broken").is_dir()


def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path):
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(make_state(1.0))
    other = make_state(0.0)
    other = other._replace(params={"a": jnp.zeros(4), "b": jnp.zeros(3)}, batch_stats={})
    expected = "params.b is missing, batch_stats.a is unexpected, params.a is .3,., not .4,."
    with pytest.raises(ValueError, match=f"checkpoints/1/variables does not fit this config: {expected}"):
        saved.restore(other)
    saved.close()


def test_a_save_that_fails_is_reported(tmp_path, monkeypatch):
    saved = Checkpoints(tmp_path, keep=1)

    def fail(*args, **kwargs):
        raise ValueError("disk full")

    monkeypatch.setattr(saved._manager, "wait_until_finished", fail)
    with pytest.raises(OSError, match="cannot save a checkpoint in .*: disk full"):
        saved.wait()
    monkeypatch.undo()
    saved.close()


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


def test_another_kind_of_optimizer_is_refused(tmp_path):
    checkpoints.write_run(tmp_path, Config(), CATEGORIES)
    changed = Config()
    changed.optimizer.name, changed.optimizer.average_decay = "adamw", 0.99
    with pytest.raises(ValueError, match=r"optimizer\.name: sgd -> adamw; optimizer\.average_decay: None -> 0.0"):
        checkpoints.write_run(tmp_path, changed, CATEGORIES)


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
