"""Parsers of single arguments: what is wrong with a value is said before a command starts."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text}")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def up_to(limit: int) -> Callable[[str], int]:
    """Makes a parser of whole numbers from 1 to a limit."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= limit:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from 1 to {limit}, got {text}"
            )
        return int(text)

    return parse


def port(text: str) -> int:
    """The number of a port, from 0 to 65535."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 65535, got {text}")
    return int(text)


def some_of(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Makes a parser of one or several of some names, with commas between them."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"knows {', '.join(names)}, got {name!r}")
        return chosen

    return parse


def given(text: str) -> str:
    """A text that is not empty; a tilde at its start becomes the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; for the folder you are in, give .")
    return os.path.expanduser(text)


def path(text: str) -> Path:
    """A path that is not empty; a tilde at its start becomes the home folder."""
    return Path(given(text))


def bucket(text: str) -> tuple[int, int]:
    """A height and a width."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(
            f"must be a height and a width, as in 800x1344, got {text}"
        )
    return int(height), int(width)
