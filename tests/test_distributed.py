"""Signals stop a run after its step; processes share records, and wait for the first."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from maskrcnn_jax import distributed


@pytest.fixture
def preemption():
    made = distributed.Preemption()
    yield made
    made.close()


def test_ctrl_c_waits_for_the_step_and_a_second_one_does_not(preemption, capsys):
    assert preemption.reached(1) is None
    os.kill(os.getpid(), signal.SIGINT)
    assert preemption.reached(2) is distributed.Interrupted
    assert "Ctrl-C: saving after this step" in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert distributed.Interrupted("").code == 130


def test_sigterm_is_another_reason(preemption):
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.reached(2) is distributed.Preempted
    assert (distributed.Preempted.name, distributed.Preempted.code) == ("SIGTERM", 143)


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    distributed.Preemption().close()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_single_process_waits_for_nobody():
    with distributed.first_goes_first("files"):
        distributed.wait_for_all("files")
    records = [{"a": 1}]
    assert distributed.gather(records) is records
    assert distributed.is_first() and not distributed.started()


@pytest.fixture
def several(monkeypatch):
    """Makes this one of two processes, and collects what it calls of JAX."""
    calls = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    utils = distributed.multihost_utils
    monkeypatch.setattr(utils, "sync_global_devices", lambda name: calls.append(name))

    def be(index):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        return calls

    return be


@pytest.mark.parametrize("index, order", [(0, ["block", "weights"]), (1, ["weights", "block"])])
def test_the_others_wait_until_the_first_has_written(several, index, order):
    calls = several(index)
    with distributed.first_goes_first("weights"):
        calls.append("block")
    assert calls == order and distributed.is_first() == (index == 0)


def test_records_of_different_lengths_are_joined_in_the_order_of_processes(several, monkeypatch):
    several(0)
    others = [{"reason": "gone \u00e9" * 9}, 7]

    def allgather(x):
        text = np.frombuffer(json.dumps(others).encode(), np.uint8)
        if np.ndim(x) == 0:
            return np.array([x, text.size])
        assert len(x) == text.size  # The longest.
        return np.stack([x, text])

    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", allgather)
    assert distributed.gather([{"a": 1}]) == [{"a": 1}, *others]


def test_processes_that_do_not_find_each_other_are_one_message(monkeypatch):
    asked = []

    def fail(*arguments, **settings):
        asked.append((arguments, settings))
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ConnectionError, match="the 4 processes did not come together: DEADLINE"):
        distributed.initialize("host:1", 4, 2)
    seconds = {"heartbeat_timeout_seconds": distributed.HEARTBEAT_SECONDS}
    assert asked == [(("host:1", 4, 2), seconds)]
