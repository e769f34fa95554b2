"""Values of annotation files in the notations of several tools."""

import math

import pytest

from maskrcnn_jax.data import values


@pytest.mark.parametrize(
    "value, expected",
    [
        (1, 1),
        (1.0, 1),
        ("1", 1),
        (" -07 ", -7),
        ("+3", 3),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),
        (10**18 - 1, 10**18 - 1),
        (10**18, None),
        (-(10**18), None),
        (1.5, None),
        (1e300, None),
        (math.nan, None),
        (math.inf, None),
        ("1.0", None),
        ("", None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_whole_numbers(value, expected):
    found = values.whole(value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "value, expected",
    [
        (1, 1),
        (1.5, 1.5),
        ("2.5", 2.5),
        ("1e3", 1000.0),
        (2**53, 2**53),
        (2**53 + 2, float(2**53 + 2)),  # NumPy would overflow on larger integers.
        ("inf", math.inf),
        (10**400, None),
        ("two", None),
        ("", None),
        (False, None),
        (None, None),
        ([1], None),
    ],
)
def test_numbers(value, expected):
    found = values.number(value)
    assert found == expected and type(found) is type(expected)


def test_not_a_number_stays_one():
    assert math.isnan(values.number("nan")) and math.isnan(values.number(math.nan))


@pytest.mark.parametrize(
    "value, expected",
    [
        (None, False),
        ("", False),
        (0, False),
        ("0", False),
        (0.0, False),
        (False, False),
        (" False ", False),
        (1, True),
        ("1", True),
        (True, True),
        ("TRUE", True),
        (2, None),
        ("yes", None),
        ([], None),
    ],
)
def test_truth_values(value, expected):
    assert values.yes_or_no(value) is expected


@pytest.mark.parametrize(
    "address, path",
    [
        ("http://host/train/a.png?x=1#top", "host/train/a.png"),
        ("train/a.png#1", "train/a.png"),
        ("a.png", "a.png"),
        ("http://[broken/a.png", "[broken/a.png"),
        ("", ""),
    ],
)
def test_the_path_of_an_address(address, path):
    assert values.path_of(address) == path
