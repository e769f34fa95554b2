"""Two commands in one directory: the second one is told who works there."""

import errno
import subprocess
import sys

import pytest

from maskrcnn_jax.cli import in_use, start
from maskrcnn_jax.cli.main import main

HOLD = """
import pathlib, sys
from maskrcnn_jax.cli import in_use
with in_use.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_command_is_told_who_works_there(holder, tmp_path):
    told = f"{tmp_path} is in use by -c, process {holder.pid} of .*, since 20.*wait until it has"
    with pytest.raises(ValueError, match=told):
        with start.claim_results(tmp_path, force=False):
            pass
    holder.kill()  # The system frees the lock.
    holder.wait()
    with start.claim_results(tmp_path, force=False):
        pass


def test_an_evaluation_into_a_run_that_trains_is_refused(holder, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["evaluate", "--weights", str(tmp_path)]) == 2
    assert f"in use by -c, process {holder.pid}" in capsys.readouterr().err


def test_a_file_system_without_locks_is_not_locked(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(in_use.fcntl, "flock", refuse)
    with in_use.hold(tmp_path):
        pass


def test_a_directory_that_is_read_only_is_named(tmp_path):
    with pytest.raises(OSError, match="absent"):
        with in_use.hold(tmp_path / "absent"):
            pass
