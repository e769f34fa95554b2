"""Output that nobody takes: a full disk or a closed pipe ends in one message and exit code 2."""

import os
import re
import subprocess
import sys

import pytest

from maskrcnn_jax.cli import streams

MAIN = """
import sys, types
from maskrcnn_jax.cli import main

def run(args):
    print("a line", flush=args.weights == "flushed")
    return 0

sys.modules["maskrcnn_jax.cli.convert"] = types.SimpleNamespace(run=run)
sys.exit(main.main(["convert", sys.argv[1], "out.npz"]))
"""


def start(output, *, way):
    """Runs a command; Python writes to its standard output at once, or keeps it in a buffer."""
    unbuffered = {"PYTHONUNBUFFERED": "1" if way == "unbuffered" else ""}
    command, pipes = (
        [sys.executable, "-c", MAIN, way],
        {"stdout": output, "stderr": subprocess.PIPE},
    )
    return subprocess.run(command, env=os.environ | unbuffered, **pipes, text=True)


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


PLACES = {
    "No space left on device": lambda: open("/dev/full", "w"),
    "Broken pipe": closed_pipe,
}


@pytest.mark.parametrize("reason", PLACES)
@pytest.mark.parametrize("way", ["flushed", "buffered", "unbuffered"])
def test_a_command_whose_output_is_lost_says_so(way, reason):
    with PLACES[reason]() as output:
        result = start(output, way=way)
    assert result.returncode == 2
    message = rf"maskrcnn-jax convert: cannot write to standard output[a-z ]*: {reason}\n"
    assert re.fullmatch(message, result.stderr)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)  # As Python starts after `command >&-`.
    streams.be_lenient()
    with getattr(sys, name) as opened:
        print("a line", file=opened)
        assert streams.flush() == ""
