"""Division and multiples of whole numbers, rounded up."""

from typing import Any, TypeVar

Numbers = TypeVar("Numbers")  # An int, or an array of ints.


def ceil_div(a: Numbers, b: Any) -> Numbers:
    """``a / b``, rounded up to a whole number."""
    return -(-a // b)


def ceil32(sizes: Numbers) -> Numbers:
    """Rounds up to multiples of 32, the stride of the coarsest stage of the backbone."""
    return ceil_div(sizes, 32) * 32
