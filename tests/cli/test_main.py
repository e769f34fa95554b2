"""The command `maskrcnn-jax`: which module runs, its errors, and its exit code."""

import sys

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli import doctor as doctor_command
from maskrcnn_jax.cli import train
from maskrcnn_jax.cli.main import main


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    assert {"predict", "evaluate", "convert"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["predict"],
        ["predict", "a.png", "--weights", "r", "--output", "o", "--score-threshold", "1.5"],
    ],
    ids=["no command", "no image", "threshold"],
)
def test_wrong_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "IMAGE", "--output", "o", "--weights"],
        ["evaluate", "--weights"],
        ["convert", "o.npz"],
    ],
    ids=lambda command: command[0],
)
def test_a_missing_run_is_one_message(command, tmp_path, capsys):
    directory, image = str(tmp_path / "nowhere"), str(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    arguments = (
        ["convert", directory, "o.npz"] if command[0] == "convert" else [*command, directory]
    )
    arguments = [image if argument == "IMAGE" else argument for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"maskrcnn-jax {command[0]}: ") and directory in error
    assert error.count("\n") == 1


@pytest.fixture
def doctor(monkeypatch):
    """Replaces what the command `doctor` runs."""
    return lambda run: monkeypatch.setattr(doctor_command, "run", run)


@pytest.mark.parametrize(
    "error, code, message",
    [
        (ValueError("no such field"), 2, "no such field"),
        (FileNotFoundError("there is no a.json"), 2, "there is no a.json"),
        (ValueError("a\x1b[2Jb"), 2, "a?[2Jb"),
        (MemoryError(), 2, "out of memory: use smaller images"),
        (RuntimeError("RESOURCE_EXHAUSTED: 7 GiB"), 2, "out of memory: 7 GiB; use"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_message(doctor, capsys, error, code, message):
    def fail(args):
        raise error

    doctor(fail)
    assert main(["doctor"]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(f"maskrcnn-jax doctor: {message}") and printed.count("\n") == 1


def test_an_error_of_this_program_keeps_its_traceback(doctor):
    def fail(args):
        raise RuntimeError("INTERNAL")

    doctor(fail)
    with pytest.raises(RuntimeError, match="INTERNAL"):
        main(["doctor"])


def test_the_command_gets_its_arguments_and_gives_the_code(doctor, monkeypatch):
    seen = []
    doctor(lambda args: seen.append(args) or 7)
    assert main(["doctor"]) == 7
    monkeypatch.setattr(sys, "argv", ["maskrcnn-jax", "doctor"])
    assert main() == 7
    assert [args.arguments for args in seen] == [["doctor"]] * 2


def test_training_reads_its_own_flags(monkeypatch):
    class Left(Exception):
        pass

    def run(program, arguments):
        raise Left(program, arguments)

    monkeypatch.setattr(train, "run", run)
    with pytest.raises(Left) as left:
        main(["train", "--config=a.py", "--help"])
    assert left.value.args == ("maskrcnn-jax train", ["--config=a.py", "--help"])
