"""Changes valid inputs at random places: bytes, JSON, pickles and zip archives.

A generator of random numbers comes first; hypothesis gives one that it can make simpler.
"""

import copy
import json
import pickletools
import struct
import warnings
import zipfile
from random import Random
from typing import Any

from tests.weights import pytorch_bytes

DEEP = json.loads("[" * 60 + "]" * 60)
ODD = (
    *(None, True, False, 0, -1, 1, 7, 0.5, -0.0, 1e-300, 1e12, 1e308, float("nan"), float("inf")),
    *(2**31 - 1, 2**31, -(2**31), 2**53 + 1, 2**63, 10**18, 10**400, -(10**30)),
    *("", "1", "1.0", " 2 ", "1e999", "nan", "true", "\ud800", "\x1b[31mred", "\0", "x" * 3000),
    *("<script>alert(1)</script>", "../../etc/passwd", "/etc/passwd", "a\nb", "[/]", "\u202e"),
    *("b'oZ'", "b''-----1", "[[0, 0, 9, 0, 9, 9]]", "{}", "[" * 3000, "52203"),
    *([], {}, [[]], [[], []], [0], [1, 2, 3, 4], [None], ["a"], {"a": 1}, DEEP),
    {"size": [60, 80], "counts": [0, 4800]},
    {"size": [60, 80], "counts": "0"},
    {"size": [2**31, 1], "counts": [2**31]},
)


FEW = (1, 1, 1, 2, 3, 5)  # Numbers of changes; most inputs with many are refused at once.


def value(rng: Random, tree: Any) -> Any:
    """A copy of a JSON value with a few changes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice(FEW)):
        tree = _changed(rng, tree)
    return tree


def _changed(rng: Random, tree: Any) -> Any:
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return _odd(rng, tree)
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    key = rng.choice(keys)
    if rng.random() < 0.75:
        tree[key] = _changed(rng, tree[key])
        return tree
    match rng.randrange(4):
        case 0:
            del tree[key]
        case 1:
            other = rng.choice(keys)
            tree[key], tree[other] = tree[other], tree[key]
        case 2 if isinstance(tree, list):
            tree[key:key] = [copy.deepcopy(tree[key])] * rng.choice((1, 2, 50))
        case 2:
            tree[rng.choice(("id", "new", ""))] = tree[key]
        case 3:
            tree[key] = _odd(rng, tree[key])
    return tree


def _odd(rng: Random, old: Any) -> Any:
    """Another value in the place of an old one."""
    match rng.randrange(6):
        case 0:
            return [old]
        case 1:
            return _text(old)
        case 2 if _is_number(old):
            return old * rng.choice((-1, 0, 0.5, 2, 10, 1e6, 1e15))
        case 3 if isinstance(old, list):
            return old * rng.choice((0, 2, 3, 40)) if len(str(old)) < 1000 else old[:1]
        case 4 if _is_number(old):
            return old + rng.choice((-1, 1, 0.25, 1e-7))
    return copy.deepcopy(rng.choice(ODD))


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e300


def _text(old: Any) -> str:
    return old + " " if isinstance(old, str) else json.dumps(old)[:5000]


NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1)


def content(rng: Random, given: bytes) -> bytes:
    """Bytes with a few changes."""
    changed = bytearray(given)
    for _ in range(rng.choice(FEW)):
        at = rng.randrange(len(changed) + 1)
        if rng.random() < 0.5:  # Headers are short, and more interesting than what follows.
            at = min(at, rng.randrange(128))
        end = at + rng.choice((1, 2, 4, 8, 30))
        match rng.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                changed[at] = rng.choice((0, 1, 0x28, 0x2E, 0x7F, 0x80, 0xFF))
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = changed[at:end]
            case 4:
                width = rng.choice((2, 4, 8))
                number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
                changed[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case 5:
                other = rng.randrange(len(changed) + 1)
                changed[at:end] = changed[other : other + end - at]
            case 6 if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


PIECES = (
    *(b"(", b"t", b"R", b"0", b"1", b"2", b"N", b"]", b"}", b")", b"a", b"e", b"s", b"u", b"b"),
    *(b"Q", b"l", b"d", b"\x81", b"\x92", b"\x93", b"\x94", b"\x85", b"\x86", b"\x87", b"\x88"),
    *(b"\x8f", b"\x90", b"\x91"),
    *(b"h\x00", b"h\x01", b"q\x00", b"q\xff", b"r\xff\xff\xff\x7f", b"K\x05", b"M\xff\xff"),
    *(b"J\xff\xff\xff\xff", b"J\x00\x00\x00\x7f", b"\x8a\x01\xff", b"\x8a\xff" + b"\x7f" * 255),
    *(b"X\x01\x00\x00\x00a", b"U\x01a", b"C\x04abcd", b"B\xff\xff\xff\x7f", b"Va\\u12\n", b"."),
    *(b"S'a\\q'\n", b"I01\n", b"I7\n", b"L5L\n", b"F1.5\n", b"G\x7f\xf8" + b"\0" * 6, b"p0\n"),
    *(b"cos\nsystem\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cbuiltins\neval\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n"),
    *(b"c_codecs\nencode\n", b"cargparse\nNamespace\n)\x81", b"cos\nsystem\nX\x02\0\0\0ls\x85R"),
)


def pickled(rng: Random, given: bytes) -> bytes:
    """A pickle with a few instructions dropped, doubled, exchanged or replaced."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of unknown escapes, if it was changed before.
            places = [place for _, _, place in pickletools.genops(given)] + [len(given)]
    except ValueError:  # It was changed before.
        return content(rng, given)
    parts = [given[a:b] for a, b in zip(places, places[1:], strict=False)]
    for _ in range(rng.choice(FEW)):
        at = rng.randrange(len(parts))
        match rng.randrange(6):
            case 0:
                del parts[at : at + rng.choice((1, 1, 2, 5))]
            case 1:
                parts[at:at] = parts[at : at + rng.choice((1, 2, 9))] * rng.choice((1, 1, 40))
            case 2:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts[at] = rng.choice(PIECES)
            case 4:
                parts[at:at] = [rng.choice(PIECES)]
            case 5:
                parts[at] = content(rng, parts[at])
        parts = parts or [b"."]
    return b"".join(parts)


def archive(rng: Random, records: dict[str, bytes]) -> bytes:
    """A zip archive whose records were changed before their checksums were computed."""
    records = dict(records)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(records))
        match rng.randrange(8):
            case 0:
                records[rng.choice(("data.pkl", "x.npy", "../x.npy", "/x", ""))] = records.pop(name)
            case 1 if len(records) > 1:
                del records[name]
            case 2:
                records[name] = content(rng, records[name])
            case _ if name.endswith(".pkl"):
                records[name] = pickled(rng, records[name])
            case _ if name.endswith(".npy"):
                records[name] = _array(rng, records[name])
            case _ if name.endswith(".json"):
                records[name] = _json(rng, records[name])
            case _:
                records[name] = content(rng, records[name])
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    made = pytorch_bytes.archive(records, kind)
    return content(rng, made) if rng.random() < 0.2 else made


def _json(rng: Random, record: bytes) -> bytes:
    try:
        return json.dumps(value(rng, json.loads(record))).encode()
    except (ValueError, RecursionError):  # It was changed before.
        return content(rng, record)


SHAPES = ("()", "(4,)", "(0,)", "(-1,)", "(2, 2)", "(1 << 60, 0)", "(4.0,)", "4", "(True,)", "x")
DTYPES = ("'<f4'", "'|O'", "'>f8'", "'V2'", "[('a', '<f4')]", "('<f4', 4)", "5", "None", "'<U9'")
HEADERS = ("-" * 9000 + "1", "(" * 150 + ")" * 150, "{}", "{'a': 1}", "f()", "[] * 9**9**9", "\0")


def _array(rng: Random, record: bytes) -> bytes:
    """A record of NumPy with another header."""
    text = f"{{'descr': {rng.choice(DTYPES)}, 'fortran_order': {rng.choice(('True', 'False', '0'))}"
    text += f", 'shape': {rng.choice(SHAPES)}, }}\n"
    if rng.random() < 0.3:
        text = rng.choice(HEADERS)
    start = record.find(b"\n") + 1
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00"))
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text.encode() + record[start:]
