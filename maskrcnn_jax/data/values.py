"""Reads the values of annotation files, whatever notation a tool has given them."""

import math
import re
from typing import Any

_WHOLE = re.compile(r"[+-]?\d{1,18}")


def whole(value: Any) -> int | None:
    """A whole number: 1, 1.0 or "1". None for anything else, and for more than 18 digits."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if _WHOLE.fullmatch(text) else None
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return value if isinstance(value, int) and abs(value) < 10**18 else None


def number(value: Any) -> float | int | None:
    """A number, or text that is one; NaN and infinity too. Integers beyond 2**53 become floats.

    None for anything else, and for integers that no float can hold.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        as_float = float(value)
    except (OverflowError, ValueError):
        return None
    return value if isinstance(value, int) and abs(value) <= 2**53 else as_float


def yes_or_no(value: Any) -> bool | None:
    """A truth value: 0, 1, "0", "1", true, false or their names; None for anything else."""
    if value is None or value == "":
        return False
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.strip().lower(), value)
    if isinstance(value, bool):
        return value
    return {0: False, 1: True}.get(whole(value))


def path_of(address: str) -> str:
    """The host and path of an address, without what follows `?` or `#`."""
    path = address.partition("://")[2] or address
    return path.partition("?")[0].partition("#")[0]
