"""A run that must stop saves its last whole step."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from maskrcnn_jax.cli.session import Session, check_images, save_before_leaving
from maskrcnn_jax.config import Config
from maskrcnn_jax.runs.checkpoints import Checkpoints
from maskrcnn_jax.runs.metrics import MetricsLog
from tests.runs.test_checkpoints import assert_equal, make_state


@pytest.fixture
def session(tmp_path):
    """A run after step 2, whose log has the first step."""
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.add(1, {"loss": jnp.float32(1), "missing_images": jnp.float32(0)})
    log.flush(1, 2)
    log.add(2, {"loss": jnp.float32(3), "missing_images": jnp.float32(1)})
    checkpoints = Checkpoints(tmp_path, keep=1)
    start = SimpleNamespace(config=Config(batch_size=2))
    unused = dict.fromkeys(("model", "preemption", "progress", "task"))
    yield Session(start=start, log=log, checkpoints=checkpoints, **unused)
    checkpoints.close()
    log.close()


def steps(tmp_path):
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_run_that_must_stop_saves_its_last_step(session, tmp_path):
    error = OSError("no space left for the log")
    save_before_leaving(session, make_state(2.0), error)
    assert error.__notes__ == ["saved after step 2"] and steps(tmp_path) == [1, 2]
    assert_equal(session.checkpoints.restore(make_state(0.0)), make_state(2.0))
    save_before_leaving(session, make_state(2.0), error)  # Nothing is logged twice.
    assert steps(tmp_path) == [1, 2]


def test_a_message_that_says_what_was_saved_says_it_once(session):
    error = OSError("the images are gone: saved after step 2")
    save_before_leaving(session, make_state(2.0), error)
    assert not hasattr(error, "__notes__")


def test_a_state_that_a_step_has_taken_over_is_not_saved(session):
    state, error = make_state(2.0), OSError("gone")
    state.params["a"].delete()
    save_before_leaving(session, state, error)
    assert not hasattr(error, "__notes__")


def test_a_checkpoint_that_cannot_be_written_hides_no_error(session, monkeypatch):
    def fail(state):
        raise OSError("disk full")

    monkeypatch.setattr(session.checkpoints, "save", fail)
    error = OSError("the first reason")
    save_before_leaving(session, make_state(2.0), error)
    assert str(error) == "the first reason" and not hasattr(error, "__notes__")


@pytest.mark.parametrize("share, stops", [(0.0, False), (0.5, False), (0.51, True), (1.0, True)])
def test_a_run_whose_images_are_gone_saves_and_stops(session, share, stops):
    means = {"missing_images": share}
    if not stops:
        return check_images(session, make_state(2.0), means)
    with pytest.raises(OSError, match="of the images cannot be read any more: saved after step 2"):
        check_images(session, make_state(2.0), means)
    assert_equal(session.checkpoints.restore(make_state(0.0)), make_state(2.0))
