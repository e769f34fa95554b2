"""How training ends: one message, and the exit code."""

import os

import jax
import pytest

from maskrcnn_jax import distributed
from maskrcnn_jax.cli import exits


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


@pytest.mark.parametrize(
    "error, message",
    [
        (ValueError("depth must be 50"), "depth must be 50"),
        (KeyError("no field 'dpeth'"), "no field 'dpeth'"),  # Without a second pair of quotes.
        (MemoryError("Unable to allocate 7 GiB"), "out of memory: Unable to allocate 7 GiB; use"),
        (ValueError("a\x1b[2Jb"), "a?[2Jb"),
    ],
)
def test_a_refusal_begins_with_the_program(capsys, error, message):
    assert exits.refuse(error, "train.py") == 2
    assert capsys.readouterr().err.startswith(f"train.py: {message}")


@pytest.mark.parametrize("flag", ["--config={}", "-config={}", "--config {}", "--config {} --x"])
def test_a_mistake_in_a_config_is_found_however_the_file_is_given(flag, tmp_path):
    path = tmp_path / "syntax.py"
    path.write_text("def get_config(:\n")
    arguments = ["train.py", "--force", *flag.format(path).split()]
    assert "syntax.py, line 1" in str(exits.explain(KeyError("config"), arguments))


@pytest.mark.parametrize("arguments", [[], ["--config"], ["config", "a.py"], ["--confg=a.py"]])
def test_without_a_config_file_the_error_stays(arguments):
    error = KeyError("confg")
    assert exits.explain(error, ["train.py", *arguments]) is error


@pytest.mark.parametrize("num_processes, started", [(1, True), (2, False)])
def test_a_single_process_exits_as_usual(monkeypatch, num_processes, started):
    monkeypatch.setattr(distributed, "started", lambda: started)
    monkeypatch.setattr(jax, "process_count", lambda: num_processes)
    with pytest.raises(SystemExit) as left:
        exits.leave(143)
    assert left.value.code == 143


def test_one_of_several_processes_does_not_wait_for_the_others(monkeypatch):
    class Gone(Exception):
        pass

    def exit_at_once(code):
        raise Gone(code)

    monkeypatch.setattr(distributed, "started", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", exit_at_once)
    with pytest.raises(Gone, match="143"):
        exits.leave(143)
