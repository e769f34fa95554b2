"""Checkpoints restore what they saved, and a run directory what belongs to it."""

import contextlib
import errno
import itertools
import os
import re
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging

from maskrcnn_jax import distributed, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
)
from maskrcnn_jax.runs import run_directory, saved_states
from maskrcnn_jax.runs.checkpoints import Checkpoints, NotSaved
from maskrcnn_jax.variables import variable_shapes

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
        saved.save(make_state(value))  # Saving a step again changes nothing.
    saved.close()
    opened = Checkpoints(tmp_path, keep=2)
    assert_equal(opened.restore(make_state(0.0)), make_state(3.0))
    opened.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == [
        "2",
        "3",
    ]


def test_a_state_that_began_with_loaded_weights_is_restored(tmp_path):
    """Weights from a file are NumPy arrays, which have no sharding."""
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(make_state(2.0))
    variables = {
        name: {"a": np.zeros(3, np.float32)} for name in ("params", "constants", "batch_stats")
    }
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
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == [
        "2",
        "3",
        "5",
    ]


def optimized_state(name, moved, **settings):
    """A state with an optimizer of ours, after a step if ``moved``."""
    config = Config()
    config.optimizer.name = name
    for field, value in settings.items():
        setattr(config.optimizer, field, value)
    params = {"head": {"conv": {"kernel": jnp.arange(3.0), "bias": jnp.ones(2)}}}
    optimizer = training.make_optimizer(config, params)
    state = training.create_state({"params": params}, optimizer)
    if moved:
        gradient = jax.tree.map(lambda x: 0.1 * x + 0.01, params)
        _, state = optimizer.update(gradient, state.optimizer, params)
        state = training.create_state({"params": params}, optimizer)._replace(
            optimizer=state, step=jnp.array(1)
        )
    return state


OPTIMIZERS = [{}, {"max_gradient_norm": 10.0}, {"decay": "kernels"}]
OPTIMIZERS.append(OPTIMIZERS[1] | OPTIMIZERS[2])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("before", OPTIMIZERS)
def test_clipping_and_what_decays_may_change_when_a_run_goes_on(tmp_path, name, before):
    saved = Checkpoints(tmp_path, keep=1)
    state = optimized_state(name, True, **before)
    saved.save(state)
    for after in OPTIMIZERS:
        restored = saved.restore(optimized_state(name, False, **after))
        assert jax.tree.structure(restored) == jax.tree.structure(
            optimized_state(name, False, **after)
        )
        ours, theirs = jax.tree.leaves(restored), jax.tree.leaves(state)
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)
    saved.close()


def test_another_kind_of_optimizer_does_not_fit_and_harms_no_checkpoint(tmp_path):
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(optimized_state("sgd", True))
    with pytest.raises(
        ValueError,
        match=r"does not fit this config: optimizer\..*\.mu\.head\.conv\.bias is missing",
    ):
        saved.restore(optimized_state("adamw", False))
    saved.close()
    assert (tmp_path / "checkpoints" / "1").is_dir()


def broken_copies():
    """Ways in which a power failure or a user can damage a checkpoint."""

    def without_an_item(path):
        shutil.rmtree(path / "variables")

    def without_data(path):
        for data in (path / "training").glob("**/d/*"):
            os.truncate(data, 0)

    def without_manifest(path):
        (path / "variables" / "manifest.ocdbt").unlink()

    def with_half_its_metadata(path):
        os.truncate(path / "training" / "_METADATA", 20)

    def with_zeros_for_data(path):
        for data in (path / "variables").glob("**/d/*"):
            data.write_bytes(bytes(data.stat().st_size))

    def with_half_a_list(path):
        os.truncate(path / "variables" / "_sharding", 9)

    def with_an_unknown_sharding(path):
        file = path / "variables" / "_sharding"
        file.write_bytes(file.read_bytes().replace(b"SingleDevice", b"RingleDevice"))

    without = [without_an_item, without_data, without_manifest]
    damaged = [with_half_its_metadata, with_zeros_for_data, with_half_a_list]
    return [*without, *damaged, with_an_unknown_sharding]


# When a read fails, Orbax's other reads end in a closed event loop.
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


def saved_steps(directory):
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


@pytest.fixture
def three(tmp_path):
    """Checkpoints of the steps 1, 2 and 3."""
    opened = Checkpoints(tmp_path, keep=3)
    for value in (1.0, 2.0, 3.0):
        opened.save(make_state(value))
    opened.wait()
    yield opened
    opened.close()


def cut_short(path):
    (path / "training" / "_METADATA").write_text("{")


def test_a_step_may_break_again(tmp_path, three):
    for _ in range(3):
        cut_short(tmp_path / "checkpoints" / "3")
        assert_equal(three.restore(make_state(0.0)), make_state(2.0))
        three.save(make_state(3.0))
        three.wait()
    assert saved_steps(tmp_path) == ["1", "2", "3", "3.broken", "3.broken2", "3.broken3"]
    assert_equal(three.restore(make_state(0.0)), make_state(3.0))


def test_where_all_are_damaged_nothing_is_begun_anew(tmp_path, three):
    for step in "123":
        cut_short(tmp_path / "checkpoints" / step)
    with pytest.raises(
        ValueError, match=rf"no checkpoint in {tmp_path}/checkpoints can be read: 3: .*; 2: .*; 1: "
    ):
        three.restore(make_state(0.0))
    assert saved_steps(tmp_path) == ["1", "2", "3"]


OUT_OF_REACH = [
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EIO, "Input/output error"),
    ValueError('PERMISSION_DENIED: Error opening "zarr" driver'),
    ValueError('UNAVAILABLE: Error opening "zarr" driver'),
    ValueError(
        "User-provided restore item and on-disk value metadata tree structures do not match"
    ),
]


@pytest.mark.parametrize("error", OUT_OF_REACH, ids=str)
def test_what_cannot_be_reached_is_left_where_it_is(tmp_path, three, monkeypatch, error):
    def fail(path, state):
        raise error

    monkeypatch.setattr(saved_states, "read", fail)
    path = re.escape(str(tmp_path / "checkpoints" / "3"))
    with pytest.raises(OSError, match=f"cannot read {path}, .*{re.escape(str(error))}"):
        three.restore(make_state(0.0))
    assert saved_steps(tmp_path) == ["1", "2", "3"]


def joined_by(monkeypatch, *others):
    """Makes this the first of two processes; the other contributes these records to `gather`."""
    answers = iter(others)
    monkeypatch.setattr(distributed, "gather", lambda records: records + next(answers))


@pytest.mark.parametrize("ours", ["whole", "damaged"])
def test_what_one_of_two_processes_can_read_is_left_where_it_is(tmp_path, three, monkeypatch, ours):
    theirs = {"whole": ["damaged", "no such file"], "damaged": ["whole", ""]}[ours]
    if ours == "damaged":
        cut_short(tmp_path / "checkpoints" / "3")
    joined_by(monkeypatch, [[3, 2, 1]], [theirs])
    process = {"whole": "process 1: no such file", "damaged": "process 0: "}[ours]
    with pytest.raises(OSError, match=f"cannot read {tmp_path}/checkpoints/3, .*{process}"):
        three.restore(make_state(0.0))
    assert saved_steps(tmp_path) == ["1", "2", "3"]


def test_two_processes_go_back_together(tmp_path, three, monkeypatch):
    cut_short(tmp_path / "checkpoints" / "3")
    joined_by(monkeypatch, [[3, 2, 1]], [["damaged", "cut short"]], [["whole", ""]], [])
    assert_equal(three.restore(make_state(0.0)), make_state(2.0))
    assert saved_steps(tmp_path) == ["1", "2", "3.broken"]


def test_both_processes_hear_that_one_cannot_set_aside(tmp_path, three, monkeypatch):
    cut_short(tmp_path / "checkpoints" / "3")
    joined_by(
        monkeypatch,
        [[3, 2, 1]],
        [["damaged", "cut short"]],
        [["whole", ""]],
        ["cannot set 3 aside: read-only"],
    )
    with pytest.raises(OSError, match="cannot set 3 aside: read-only"):
        three.restore(make_state(0.0))


def test_two_processes_must_see_the_same_checkpoints(three, monkeypatch):
    joined_by(monkeypatch, [[2, 1]])
    with pytest.raises(
        OSError,
        match=r"different checkpoints in .*: \[\[3, 2, 1\], \[2, 1\]\]; all need one --workdir",
    ):
        three.restore(make_state(0.0))


def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path):
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(make_state(1.0))
    other = make_state(0.0)
    other = other._replace(params={"a": jnp.zeros(4), "b": jnp.zeros(3)}, batch_stats={})
    expected = "params.b is missing, batch_stats.a is unexpected, params.a is .3,., not .4,."
    with pytest.raises(
        ValueError, match=f"checkpoints/1/variables does not fit this config: {expected}"
    ):
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


def test_a_clock_that_jumps_stops_no_save(tmp_path, monkeypatch):
    now, checkpoints, hours = time.time, tmp_path / "checkpoints", itertools.count()

    def jumping_once_arrays_are_written():
        is_writing = any(checkpoints.glob("*tmp/*/**/d/*"))
        return now() + 3600 * (next(hours) if is_writing else 0)

    monkeypatch.setattr(time, "time", jumping_once_arrays_are_written)
    with Checkpoints(tmp_path, keep=2) as saved:
        for value in (1.0, 2.0):
            saved.save(make_state(value))
        assert_equal(saved.restore(make_state(0.0)), make_state(2.0))
    assert next(hours) > 10


def test_nothing_saved_restores_nothing(tmp_path):
    empty = Checkpoints(tmp_path, keep=1)
    assert empty.restore(make_state(0.0)) is None
    empty.close()


def test_another_model_in_the_same_directory_is_refused(tmp_path):
    run_directory.write_run(tmp_path, Config(), CATEGORIES)
    changed = Config()
    changed.model.backbone.depth = 101
    with pytest.raises(ValueError, match=r"model\.backbone\.depth: 50 -> 101"):
        run_directory.write_run(tmp_path, changed, CATEGORIES)
    with pytest.raises(ValueError, match="categories"):
        run_directory.write_run(tmp_path, Config(), Categories((1,), ("cat",)))


OTHER_WAYS = {
    "rematerialise": ("execution", {"rematerialise": True}),
    "microbatches": ("execution", {"num_microbatches": 2}),
    "align form": ("execution", {"align_form": "einsum"}),
    "deterministic": ("execution", {"deterministic": True}),
    "devices": ("execution", {"num_devices": 8, "space": 2}),
    "detection": ("detection", {"num_detections": 7, "score_threshold": 0.5, "num_proposals": 9}),
}


def tiny_experiment():
    model = ModelConfig(
        num_classes=3,
        backbone=ResNetConfig(depth=18, stem_channels=2),
        fpn=FPNConfig(channels=2),
        box_head=BoxHeadConfig(features=2),
        mask_head=MaskHeadConfig(channels=2, num_convs=1),
    )
    return Config(model=model)


def initial_state(config, value):
    """The initial state of `train.py` with all variables set to one value."""
    shapes = variable_shapes(config.model)
    variables = jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), shapes)
    optimizer = training.make_optimizer(config, variables["params"])
    return training.create_state(variables, optimizer)


@pytest.mark.parametrize("part, values", OTHER_WAYS.values(), ids=list(OTHER_WAYS))
def test_a_run_goes_on_with_another_way_to_compute_or_to_detect(tmp_path, part, values):
    config = tiny_experiment()
    run_directory.write_run(tmp_path, config, CATEGORIES)
    saved = Checkpoints(tmp_path, keep=1)
    saved.save(initial_state(config, 0.5)._replace(step=jnp.array(3)))
    for name, value in values.items():
        setattr(getattr(config, part), name, value)
    run_directory.write_run(tmp_path, config, CATEGORIES)
    restored = saved.restore(initial_state(config, 0.0))
    saved.close()
    assert int(restored.step) == 3
    assert all((x == 0.5).all() for x in jax.tree.leaves(restored.params))
    assert run_directory.read_settings(tmp_path)[0] == config


@pytest.mark.parametrize("name", ["night [1]", "all*", "plain"])
def test_a_run_of_any_name_is_loaded(tmp_path, name):
    config, directory = tiny_experiment(), tmp_path / name
    run_directory.write_run(directory, config, CATEGORIES)
    saved = Checkpoints(directory, keep=1)
    saved.save(initial_state(config, 0.5)._replace(step=jnp.array(3)))
    saved.close()
    for path in (directory, directory / "checkpoints" / "3"):
        run = run_directory.load_run(path)
        assert run.step == 3 and run.categories == CATEGORIES
        assert all((x == 0.5).all() for x in jax.tree.leaves(run.variables["params"]))
    for data in (directory / "checkpoints" / "3").glob("variables/manifest.ocdbt"):
        data.unlink()
    message = re.escape(f"the checkpoint {directory / 'checkpoints' / '3'} cannot be read")
    with pytest.raises(ValueError, match=message):
        run_directory.load_run(directory)


def test_the_remains_of_a_killed_save_are_removed(tmp_path):
    remains = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    remains.mkdir(parents=True)
    (remains / "half").write_bytes(b"0")
    with contextlib.closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.save(make_state(1.0))
    assert [path.name for path in remains.parent.iterdir() if path.is_dir()] == ["1"]


def test_the_first_reason_of_a_failed_save_is_told(tmp_path, monkeypatch, caplog):
    """Orbax logs it in a thread, and raises a consequence."""
    with contextlib.closing(Checkpoints(tmp_path, keep=1)) as checkpoints:

        def save(*args, **kwargs):
            try:
                raise ValueError("a" * 500 + ": No space left [tensorstore_spec={...}]")
            except ValueError:
                logging.exception("a thread")
            raise ValueError("NOT_FOUND: Manifest not found\nand more lines")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, "save", save)
            with pytest.raises(
                NotSaved, match="checkpoints: NOT_FOUND: Manifest not found; aaa.* "
            ):
                checkpoints.save(make_state(1.0))
            with pytest.raises(NotSaved, match="aaa: No space left$"):
                checkpoints.save(make_state(1.0))
        logging.warning("another record")
    assert caplog.messages == ["another record"]
