"""Checks that the commands on pages exist, and accept the shown arguments."""

import argparse
import ast
import contextlib
import io
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from maskrcnn_jax.cli import config_file, main, train
from maskrcnn_jax.config import Config
from tests.markdown import ROOT

FOLDERS = ("benchmarks/", "configs/", "docs/", "launch/", "maskrcnn_jax/", "tests/")
# Values for the placeholders on pages that train.py checks.
STAND_INS = {
    "C": "configs/shapes.py",
    "N": "2",
    "I": "1",
}


class WrongCommand(AssertionError):
    """A command on a page would not work."""


def check(line: str, complete: bool = True) -> bool:
    """Checks the commands of this repository in a line; returns whether there are any.

    Args:
        line: A line of a shell.
        complete: Whether commands need all their arguments; in running text they need not.

    Raises:
        WrongCommand: A command does not exist, refuses its arguments, or names a missing file.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # A quotation over several lines is no command of ours.
        return False
    try:
        return any([_check_command(*command, complete=complete) for command in _commands(words)])
    except WrongCommand as error:
        raise WrongCommand(f"{line!r}: {error}") from error


def _commands(words: Sequence[str]) -> Iterator[list[str]]:
    """The words of each command, without assignments of variables and the program's folder."""
    command: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", "||", "|", ";", "&"):
            if command:
                yield command
            command = []
        elif not command and not re.match(r"[A-Z_]+=", word):
            command = [re.sub(r"^(\./)?(\.venv/bin/)?", "", word).replace("python3", "python")]
        elif command and word != "...":
            command.append(word)


def _check_command(program: str, *arguments: str, complete: bool) -> bool:
    for word in (program, *arguments):
        path = word.partition("=")[2] or word
        if path.startswith(FOLDERS) and not (ROOT / path).exists():
            raise WrongCommand(f"there is no {path}")
    if program == "maskrcnn-jax" and arguments[:1] == ("train",):
        _check_train(arguments[1:], complete)
    elif program == "maskrcnn-jax":
        _check_cli(arguments, complete)
    elif program == "python" and arguments:
        return _check_python(arguments, complete)
    elif program == "make":
        _check_make(arguments)
    elif program == "pip":
        _check_extras(arguments)
    elif program == "sbatch" or program.startswith("launch/"):
        _check_train(
            [x for x in arguments if x.startswith(("--config", "--workdir"))], complete=False
        )
    else:
        return False
    return True


def _check_cli(arguments: Sequence[str], complete: bool) -> None:
    if complete:
        parsed, _ = _parse(main._parser(), arguments)
        for setting in getattr(parsed, "set", []):
            try:
                config_file.override(Config(), setting)
            except ValueError as error:
                raise WrongCommand(str(error)) from error
        return
    words = [argument for argument in arguments if not argument.startswith("-")]
    _, help_text = _parse(main._parser(), [*words, "--help"])
    for option in set(arguments) - set(words):
        if not re.search(rf"(?<![\w-]){re.escape(option.partition('=')[0])}(?![\w-])", help_text):
            raise WrongCommand(f"there is no option {option}")


def _parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, str]:
    """The parsed arguments, and the printed text."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return parser.parse_args(arguments), output.getvalue()
    except SystemExit as error:
        if error.code:
            raise WrongCommand(output.getvalue().strip().splitlines()[-1]) from error
        return argparse.Namespace(), output.getvalue()


def _check_python(arguments: Sequence[str], complete: bool) -> bool:
    program, *rest = arguments
    if program == "train.py":
        _check_train(rest, complete)
        return True
    if program == "-m":
        program, *rest = rest
        if program in ("build", "http.server", "pip", "pytest", "venv"):
            return False
        program = program.replace(".", "/")
        program += "/__main__.py" if (ROOT / program).is_dir() else ".py"
    elif program.startswith("-"):
        return False
    if not (ROOT / program).is_file():
        raise WrongCommand(f"there is no {program}")
    if complete:
        _parse(_parser_of(ROOT / program), rest)
    return True


def _parser_of(path: Path) -> argparse.ArgumentParser:
    """Rebuilds the parser of a program from its source; running it may need missing packages."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    parser = argparse.ArgumentParser(path.name)
    for call in sorted(calls, key=lambda call: call.lineno):
        name = getattr(call.func, "attr", getattr(call.func, "id", None))
        # Some programs write ``add = parser.add_argument``; sets have an ``add`` too.
        is_short = name == "add" and isinstance(call.func, ast.Name)
        if name == "add_argument" or is_short:
            known = {
                k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)
            }
            knobs = {name: known[name] for name in ("action", "nargs", "required") if name in known}
            parser.add_argument(*map(ast.literal_eval, call.args), **knobs)
    return parser


def _check_train(arguments: Sequence[str], complete: bool) -> None:
    """Parses the flags as training does, and resets them."""
    names = [argument.partition("=")[0] for argument in arguments]
    if complete and not {"--config", "--workdir"} <= set(names):
        raise WrongCommand("training needs --config and --workdir")
    arguments = [
        re.sub(r"=([A-Z])$", lambda match: f"={STAND_INS.get(match[1], match[1])}", x)
        for x in arguments
    ]
    if "--config" not in names:
        arguments = ["--config=configs/shapes.py", *arguments]
    argv, output = sys.argv, io.StringIO()
    sys.argv = ["train.py", *arguments]  # ml_collections reads the changed fields from there.
    try:
        with (
            contextlib.chdir(ROOT),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            rest = train.parse(sys.argv)[1:]
    except SystemExit as error:
        raise WrongCommand(output.getvalue().strip()) from error
    finally:
        sys.argv = argv
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
    if rest:
        raise WrongCommand(f"training takes no {' '.join(rest)}")


def _check_make(arguments: Sequence[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for argument in arguments:
        if "=" not in argument and argument not in targets:
            raise WrongCommand(f"the Makefile has no target {argument}")


def _check_extras(arguments: Sequence[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for argument in arguments:
        match = re.fullmatch(r"(?:\.|maskrcnn-jax)\[([\w,-]+)\]", argument)
        for name in match[1].split(",") if match else []:
            if name not in extras:
                raise WrongCommand(f"there is no extra {name}")
