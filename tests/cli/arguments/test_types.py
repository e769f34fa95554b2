"""Wrong values of arguments are refused before a command starts."""

import argparse
from pathlib import Path

import pytest

from maskrcnn_jax.cli.arguments import types


@pytest.mark.parametrize(
    "parse, text, value",
    [
        (types.fraction, "0", 0.0),
        (types.fraction, "1", 1.0),
        (types.fraction, "5e-1", 0.5),
        (types.positive, "1", 1),
        (types.positive, "007", 7),
        (types.up_to(8), "1", 1),
        (types.up_to(8), "8", 8),
        (types.port, "0", 0),
        (types.port, "65535", 65535),
        (types.bucket, "800x1344", (800, 1344)),
        (types.some_of(("a", "b")), "b,a", ("b", "a")),
        (types.given, "a b", "a b"),
        (types.path, "a/b", Path("a/b")),
    ],
)
def test_values(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    "parse, text, message",
    [
        (types.fraction, "-0.001", "a number from 0 to 1, got -0.001"),
        (types.fraction, "1.001", "a number from 0 to 1, got 1.001"),
        (types.fraction, "nan", "a number from 0 to 1, got nan"),
        (types.fraction, "half", "a number from 0 to 1, got half"),
        (types.positive, "0", "of at least 1, got 0"),
        (types.positive, "-3", "of at least 1, got -3"),
        (types.positive, "2.0", "of at least 1, got 2.0"),
        (types.up_to(8), "0", "from 1 to 8, got 0"),
        (types.up_to(8), "9", "from 1 to 8, got 9"),
        (types.port, "65536", "from 0 to 65535, got 65536"),
        (types.port, "http", "from 0 to 65535, got http"),
        (types.bucket, "800", "as in 800x1344, got 800"),
        (types.bucket, "800x", "as in 800x1344, got 800x"),
        (types.bucket, "x800", "as in 800x1344, got x800"),
        (types.some_of(("a", "b")), "a,c", "knows a, b, got 'c'"),
        (types.some_of(("a", "b")), "a,", "knows a, b, got ''"),
        (types.given, "", "is empty; for the folder you are in, give ."),
        (types.path, "", "is empty; for the folder you are in, give ."),
    ],
)
def test_mistakes(parse, text, message):
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        parse(text)
    assert str(raised.value).endswith(message)


def test_a_tilde_is_the_home_folder_at_the_start_only(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert types.path("~/a") == Path("/home/me/a") and types.given("a/~") == "a/~"
