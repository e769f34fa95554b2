"""The progress bar of commands: on standard error, with its speed."""

import re
import sys

import pytest

from maskrcnn_jax.cli import progress
from tests.cli.conftest import ClosedPipe


def test_what_is_done_is_counted_on_standard_error(capsys):
    with progress.images("look", 5, "windows") as advance:
        advance(2)
        advance(3)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(r"look .*5/5 .*\d\.\d\d windows/s", printed.err)


def test_without_an_advance_there_is_no_speed(capsys):
    with progress.images("look", 5):
        pass
    assert "0/5" in (told := capsys.readouterr().err) and "images/s" not in told


def test_a_closed_pipe_does_not_end_the_process(monkeypatch):
    """Rich would raise SystemExit."""
    monkeypatch.setattr(sys, "stderr", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        with progress.images("look", 1) as advance:
            advance(1)
