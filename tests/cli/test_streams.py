"""Output that nobody takes: a full disk or a closed pipe ends in one message and exit code 2."""

import io
import os
import re
import subprocess
import sys

import pytest

from maskrcnn_jax.cli import exits, progress, streams, training_bar
from maskrcnn_jax.cli.console import Console

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


class Closed(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_bar_does_not_end_the_process(monkeypatch):
    """Rich would raise SystemExit, and a run would lose its steps."""
    with pytest.raises(BrokenPipeError):
        Console(file=Closed()).print("a line")
    assert isinstance(training_bar.progress_bar().console, Console)
    monkeypatch.setattr(sys, "stderr", Closed())
    with pytest.raises(BrokenPipeError):
        with progress.images("look", 1) as advance:
            advance(1)


def test_what_was_saved_is_said_although_closing_fails_too(capsys):
    """A bar that cannot be drawn hides the error that knows what was saved."""
    try:
        try:
            error = OSError("no space left for the log")
            error.add_note("saved after step 7")
            raise error
        finally:
            raise BrokenPipeError(32, "Broken pipe")
    except OSError as last:
        assert exits.refuse(last, "train.py") == 2
    assert capsys.readouterr().err == (
        "train.py: cannot write to standard output or standard error: Broken pipe; "
        "saved after step 7\n"
    )
