"""Messages about full memory, for errors that Python, NumPy and JAX really raise."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.cli import memory
from maskrcnn_jax.cli import plan as command
from maskrcnn_jax.cli.main import main


def raised(function):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        function()
    return caught.value


@pytest.mark.parametrize(
    ("allocate", "message"),
    [
        (lambda: bytearray(1 << 62), "out of memory: use smaller images or a smaller batch_size"),
        (
            lambda: np.zeros(1 << 57),
            "out of memory: Unable to allocate 1.00 EiB for an array .*; use smaller images",
        ),
        (
            lambda: jnp.zeros((1 << 22, 1 << 22)),
            "out of memory: Out of memory allocating 70368744177664 bytes; use",
        ),
    ],
    ids=["Python", "NumPy", "jax"],
)
def test_running_out_of_memory_is_one_line_with_advice(monkeypatch, capsys, allocate, message):
    monkeypatch.setattr(command, "run", lambda args: allocate())
    assert main(["plan", "--config", "x.py", "--devices", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("maskrcnn-jax plan: ") and re.search(message, line)


def test_pages_of_the_compiler_are_left_out():
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.\nTotal usage: ...\n  1. ..."
    )
    assert memory.explain(error).startswith(
        "out of memory: Ran out of memory in memory space hbm; use"
    )


def test_other_errors_are_no_matter_of_memory():
    assert not memory.ran_out(RuntimeError("INTERNAL: no such device")) and not memory.ran_out(
        ValueError("7")
    )
