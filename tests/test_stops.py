"""Signals stop a run after its step; errors at its end are not hidden."""

import os
import signal

import pytest

from maskrcnn_jax import distributed
from maskrcnn_jax.runs.checkpoints import Checkpoints, NotSaved


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


@pytest.mark.parametrize("first", [OSError("the first reason"), None])
def test_a_save_that_fails_at_the_end_hides_no_error(tmp_path, monkeypatch, first):
    def fail():
        raise NotSaved("the disk is full")

    with pytest.raises(OSError, match=str(first) if first else "the disk is full"):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            monkeypatch.setattr(checkpoints, "wait", fail)
            if first:
                raise first
