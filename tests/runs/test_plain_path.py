"""A run directory may have any name, and a checkpoint that cannot be read is noticed when saved."""

import os
import tempfile

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskrcnn_jax import training
from maskrcnn_jax.runs import plain_path
from maskrcnn_jax.runs.checkpoints import Checkpoints
from maskrcnn_jax.runs.plain_path import PlainPath
from tests.runs.test_checkpoints import assert_equal, make_state


@pytest.mark.parametrize(
    "name",
    [
        "my run [1] ü",
        "all*",
        "a**b",
        "what?",
        "[!x]",
        "数据 [é]",
        "'\"$(x)`;&",
        "-x",
        " ",
        "a\\b",
        "../x",
    ],
)
def test_any_name_holds_a_run(tmp_path, name):
    for value in (1.0, 2.0):  # The second opens what the first has left.
        saved = Checkpoints(tmp_path / name, keep=1)
        saved.save(make_state(value))
        saved.close()
    opened = Checkpoints(tmp_path / name, keep=1)
    assert_equal(opened.restore(make_state(0.0)), make_state(2.0))
    opened.close()
    steps = {path.name for path in (tmp_path / name / "checkpoints").iterdir()}
    assert "2" in steps and "1" not in steps


def test_a_run_may_lie_deep_below(tmp_path):
    """Checkpoints add to the path of the run, which may be as long as Linux allows."""
    deep = tmp_path.joinpath(*["x" * 200] * 19)
    deep /= "x" * (4050 - len(str(deep)))
    assert plain_path._MAX_LENGTH < len(str(deep)) < 4096
    saved = Checkpoints(deep, keep=1)
    saved.save(make_state(1.0))
    assert_equal(saved.restore(make_state(0.0)), make_state(1.0))
    saved.close()


def test_the_link_goes_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = tmp_path / "night[1]"
    saved = Checkpoints(run, keep=1)
    (link,) = [path for path in tmp_path.iterdir() if path != run]
    assert (link / "run").resolve() == run
    saved.close()
    assert list(tmp_path.iterdir()) == [run]


def test_messages_name_the_path_that_was_given(tmp_path):
    run = tmp_path / "night[1]"
    saved = Checkpoints(run, keep=1)
    saved.save(make_state(1.0))
    for data in (run / "checkpoints" / "1").glob("**/d/*"):
        data.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .*/night\[1\]/checkpoints can be read"):
        saved.restore(make_state(0.0))
    saved.close()


def test_a_plain_path_stays(tmp_path):
    plain = PlainPath(tmp_path)
    assert plain.path == tmp_path
    plain.close()


@pytest.mark.parametrize("folder", ["tmp[1]", "tmp*"])
def test_without_a_way_around_the_path_is_refused(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    with pytest.raises(ValueError, match=r"checkpoints cannot be kept in .*night\[1\].*another"):
        PlainPath(tmp_path / "night[1]")
    assert list((tmp_path / folder).iterdir()) == []


def test_a_name_that_is_no_unicode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not valid Unicode: use another name"):
        PlainPath(tmp_path / os.fsdecode(b"\xff"))


@pytest.fixture
def spoiled(tmp_path, monkeypatch):
    """Checkpoints whose files are changed by a function as soon as they are on disk."""
    saved = Checkpoints(tmp_path, keep=3)
    finish = saved._manager.wait_until_finished

    def spoil_by(change):
        def spoil():
            finish()
            change(tmp_path / "checkpoints")

        monkeypatch.setattr(saved._manager, "wait_until_finished", spoil)

    yield saved, spoil_by
    monkeypatch.undo()
    saved._unchecked = None
    saved.close()


def large_state(step):
    """A state whose arrays are too large for the index of a checkpoint."""
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    variables = {name: {"a": values} for name in ("params", "constants", "batch_stats")}
    state = training.create_state(variables, optax.sgd(0.1))
    return state._replace(step=jnp.array(step, jnp.int32))


def unmerge(folder):
    """Leaves a checkpoint as Orbax does when it does not find what each process has written."""
    for path in folder.glob("*/*/manifest.ocdbt"):
        path.unlink()


def cut_data(folder):
    for path in folder.glob("*/*/ocdbt.process_0/d/*"):
        os.truncate(path, path.stat().st_size // 2)


def remove_data(folder):
    for path in folder.glob("*/variables/ocdbt.process_0/d/*"):
        path.unlink()


def empty_tree(folder):
    for path in folder.glob("*/training/_METADATA"):
        path.write_text("")


CHANGES = [unmerge, cut_data, remove_data, empty_tree]


@pytest.mark.parametrize("change", CHANGES)
def test_the_first_checkpoint_is_read_back(tmp_path, spoiled, change):
    saved, spoil_by = spoiled
    spoil_by(change)
    with pytest.raises(OSError, match=f"cannot save a checkpoint in {tmp_path}/checkpoints: "):
        saved.save(large_state(1))


@pytest.mark.parametrize("change", CHANGES)
def test_later_ones_are_checked_without_reading_arrays(tmp_path, spoiled, change):
    saved, spoil_by = spoiled
    saved.save(large_state(1))
    spoil_by(lambda folder: change(folder) if (folder / "2").exists() else None)
    saved.save(large_state(2))
    with pytest.raises(OSError, match="cannot save a checkpoint in"):
        saved.wait()


def test_a_checkpoint_of_other_arrays_is_not_what_was_saved(spoiled):
    saved, spoil_by = spoiled
    saved.save(large_state(1))
    spoil_by(lambda folder: None)
    saved.save(large_state(2))
    step, state = saved._unchecked
    saved._unchecked = step, state._replace(batch_stats={})
    with pytest.raises(OSError, match="is not what was saved: batch_stats.a is unexpected"):
        saved.wait()
