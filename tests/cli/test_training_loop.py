"""The order of a step's log, save, stop and evaluation, with a stand-in for the step itself."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from maskrcnn_jax import distributed
from maskrcnn_jax.cli import training_loop
from maskrcnn_jax.cli.session import Session
from maskrcnn_jax.config import Config
from maskrcnn_jax.runs.checkpoints import NotSaved
from tests.runs.test_checkpoints import make_state


class Events(list):
    """The actions of a run, in order."""

    def note(self, name, result=None):
        return lambda *arguments, **values: self.append(name) or result


@pytest.fixture
def events(monkeypatch):
    """Replaces evaluations and what is shown by notes."""
    events = Events()
    monkeypatch.setattr(training_loop, "evaluate", events.note("evaluate"))
    monkeypatch.setattr(training_loop, "show", events.note("show"))
    monkeypatch.setattr(training_loop, "check_images", events.note("check"))
    return events


@pytest.fixture
def session(events):
    """Makes a session of a config, whose log and checkpoints are notes."""

    def make(stop_at=None, ap=(), **settings):
        flush = events.note("flush", {"loss": 1.0, "missing_images": 0.0})
        log = SimpleNamespace(add=events.note("step"), flush=flush, ap=ap, is_empty=True)
        checkpoints = SimpleNamespace(save=events.note("save"), wait=events.note("wait"))
        reached = {stop_at: distributed.Preempted}.get
        unused = dict.fromkeys(("model", "progress", "task"))
        return Session(
            start=SimpleNamespace(config=Config(**settings)),
            log=log,
            checkpoints=checkpoints,
            preemption=SimpleNamespace(reached=reached),
            **unused,
        )

    return make


LOGGED, SAVED = ["flush", "show", "check"], ["flush", "show", "check", "save"]
EACH = {"num_steps": 12, "log_every": 2, "save_every": 4, "evaluate_every": 6}


@pytest.mark.parametrize(
    "step, done",
    [
        (1, []),
        (2, LOGGED),
        (4, SAVED),
        (6, [*SAVED, "evaluate"]),
        (12, SAVED),  # The last evaluation is that of `train`.
    ],
)
def test_what_follows_a_step(session, events, step, done):
    training_loop.finish_step(session(**EACH), make_state(step), step)
    assert events == done


def test_what_never_comes_stays_away_but_for_the_last_save(session, events):
    never = {"num_steps": 4, "log_every": 0, "save_every": 0, "evaluate_every": 0}
    for step in range(1, 5):
        training_loop.finish_step(session(**never), make_state(step), step)
    assert events == SAVED


def test_a_signal_saves_and_stops_before_an_evaluation(session, events):
    with pytest.raises(distributed.Preempted, match="saved after step 6"):
        training_loop.finish_step(session(stop_at=6, **EACH), make_state(6), 6)
    assert events == [*SAVED, "wait"]


def test_the_logged_rate_is_that_of_the_step(session, events):
    rates = []
    opened = session(num_steps=12, batch_size=16)
    opened.log.flush = lambda *arguments, learning_rate: rates.append(learning_rate) or {}
    for step in (1, 2):
        training_loop.log(opened, make_state(step), step)
    schedule = training_loop.training.learning_rate(Config().optimizer, 16, 12)
    assert rates == [float(schedule(0)), float(schedule(1))]


def run(opened, first, taken, fails=None):
    """Takes the remaining steps of a run; collects the numbers of the batches."""

    def step(state, batch, key):
        if fails and batch == fails[0]:
            raise fails[1]
        taken.append(batch)
        return state._replace(step=state.step + 1), {"loss": jnp.float32(1)}

    return training_loop.take_steps(opened, make_state(first), step, iter(range(first + 1, 100)))


def test_the_remaining_steps_are_taken(session, events):
    taken = []
    state = run(session(num_steps=5, log_every=0), 2, taken)
    assert int(state.step) == 5 and taken == [3, 4, 5]
    assert events == ["step", "step", "step", *SAVED]


@pytest.mark.parametrize(
    "first, ap, evaluates",
    [
        (6, {}, True),  # It stopped between the step and its evaluation.
        (6, {6: 0.5}, False),
        (5, {}, False),
        (0, {}, False),
        (12, {}, False),  # `train` evaluates the last step.
    ],
)
def test_an_evaluation_that_a_stop_took_is_done_first(session, events, first, ap, evaluates):
    run(session(num_steps=12, evaluate_every=6, log_every=0, ap=ap), first, [])
    assert (events[:1] == ["evaluate"]) == evaluates


@pytest.mark.parametrize(
    "error, saves", [(OSError("gone"), True), (MemoryError(), True), (NotSaved("full"), False)]
)
def test_an_error_saves_the_last_whole_step(session, monkeypatch, error, saves):
    saved = []
    monkeypatch.setattr(
        training_loop, "save_before_leaving", lambda session, state, _: saved.append(state.step)
    )
    with pytest.raises(type(error)):
        run(session(num_steps=9, log_every=0, save_every=0), 0, [], fails=(4, error))
    assert saved == ([3] if saves else [])


def test_a_step_is_due_at_multiples():
    assert [step for step in range(7) if training_loop.is_due(step, 3)] == [0, 3, 6]
    assert not any(training_loop.is_due(step, 0) for step in range(7))


def test_devices_that_cannot_share_a_bucket_are_refused():
    config = Config(batch_size=1)
    config.execution.num_devices = config.execution.space = 4
    config.data.buckets = ((768, 1344),)
    assert training_loop.make_mesh(config).shape == {"data": 1, "space": 4}
    config.data.buckets = ((768, 1344), (96, 96))
    with pytest.raises(ValueError, match="96"):
        training_loop.make_mesh(config)
