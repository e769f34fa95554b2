"""The page of all commands, made from their own help."""

import argparse
import os
from collections.abc import Iterator
from unittest import mock

from maskrcnn_jax.cli import main, train

_INTRODUCTION = """# Commands

What each command prints with `--help`. All of them exit with 0 for success, 1 if an image or a
check failed, and 2 for a mistake in the call.
"""


def markdown() -> str:
    """The help of each command, in the order of `maskrcnn-jax --help`."""
    with mock.patch.dict(os.environ, {"COLUMNS": "80", "NO_COLOR": "1"}):
        sections = [f"## {name}\n\n```text\n{text}```\n" for name, text in helps()]
    return "\n".join([_INTRODUCTION, *sections])


def helps() -> Iterator[tuple[str, str]]:
    """The name of each command and its help text."""
    for name, parser in _parsers(main._parser()):
        text = train.about(train.NAME) if name == train.NAME else parser.format_help()
        yield name, text.rstrip() + "\n"


def _parsers(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _parsers(each)
