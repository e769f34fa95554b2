"""A console that nobody reads raises an error, like `print`."""

import pytest

from maskrcnn_jax.cli.console import Console
from tests.cli.conftest import ClosedPipe


def test_a_closed_pipe_does_not_end_the_process():
    """Rich would raise SystemExit, and a run would lose its steps."""
    with pytest.raises(BrokenPipeError):
        Console(file=ClosedPipe()).print("a line")
