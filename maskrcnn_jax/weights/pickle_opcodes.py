"""Writes the opcodes of plain values and names, from which the writers of files make pickles.

Nothing is put into the memo of a pickle, so the parts of one can be joined in any order.
"""

import pickle
import struct
from typing import Any


def value(x: Any) -> bytes:
    """Returns the opcodes of text, bytes up to 255, numbers, truth values, None, and containers.

    Tuples, and dicts of these values, are containers.

    Raises:
        TypeError: The value is of another type.
    """
    match x:
        case None:
            return pickle.NONE
        case bool():
            return pickle.NEWTRUE if x else pickle.NEWFALSE
        case int() if -(1 << 31) <= x < 1 << 31:
            return pickle.BININT + struct.pack("<i", x)
        case int():
            return pickle.LONG1 + b"\x08" + struct.pack("<q", x)
        case bytes():
            return pickle.SHORT_BINBYTES + bytes([len(x)]) + x
        case str():
            encoded = x.encode("utf-8")
            return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded
        case tuple():
            return pickle.MARK + b"".join(map(value, x)) + pickle.TUPLE
        case dict():
            items = b"".join(value(key) + value(item) for key, item in x.items())
            return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    raise TypeError(f"expected a plain value, got {type(x).__name__}")


def name(module: str, attribute: str) -> bytes:
    """Returns the opcode that stands for a class or a function."""
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode("ascii")
