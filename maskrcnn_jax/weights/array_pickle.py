"""A pickle of NumPy arrays by name, as the model zoos of Detectron2 and Caffe2 write it; not run.

The content is one of these:

* ``{"model": {name: array}, "__author__": text}``, from Detectron2's model zoo; with
  ``"matching_heuristics": True`` the names lack what they begin with in a model;
* ``{"blobs": {name: array}, "cfg": text}``, from Detectron 1;
* ``{name: array}``, a backbone of Caffe2.

Every protocol from 0 to 5 is read, from Python 2 or 3 and with the module names of any NumPy. The
arrays share the memory of the bytes that are read from the file.
"""

import pickle
import struct
from collections.abc import Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np

from maskrcnn_jax.weights import pickle_opcodes
from maskrcnn_jax.weights.restricted_pickle import (
    FOR_ARRAYS,
    BoundedFile,
    Name,
    RestrictedUnpickler,
    dictionary,
)

STARTS = (b"\x80", b"(d", b"}q", b"(lp", b"ccollections\nOrderedDict\n")
WRAPPERS = ("model", "blobs")
KIND = "pickle.kind"  # The metadata key for the wrapper, or "flat".
KINDS = "fiub"  # Floats, integers, booleans.
ORDERS = ("<", ">", "=", "|")
MAX_AXES = 64  # The limit of NumPy.
MAX_BYTES = (1 << 32) - 1  # Of an array in the pickles that are written.
AUTHOR = "maskrcnn_jax"


class _DType:
    """A dtype whose byte order may follow."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def set_state(self, state: Any) -> None:
        """Takes the byte order; all other parts are of dtypes that are not accepted."""
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ORDERS:
            raise ValueError("the pickle describes a dtype in an unknown way")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array whose content may follow."""

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def set_state(self, state: Any) -> None:
        """Takes the shape, the dtype and the bytes."""
        match state:
            case (int(), tuple() as shape, _DType() as kind, bool() | int() as is_fortran, content):
                self.array = _view(content, kind.dtype, shape, "F" if is_fortran else "C")
            case _:
                raise ValueError("the pickle describes an array in an unknown way")


def read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays, read-only, and how the file wraps them (`KIND`) as metadata.

    Raises:
        ValueError: The pickle is damaged, needs anything but arrays of numbers and plain
            containers, or holds something else; the message says what.
    """
    bounded = BoundedFile(file)
    unpickler = RestrictedUnpickler(FUNCTIONS, None, opcodes=FOR_ARRAYS, decodes_text=False)
    root = unpickler.load(bounded)
    if bounded.read(1):
        raise ValueError("has more bytes after its pickle")
    if not isinstance(root, dict):
        raise ValueError(f"is a pickle of a {type(root).__name__}, expected arrays by name")
    root = _decoded(root)
    kind = next((key for key in WRAPPERS if isinstance(root.get(key), dict)), "flat")
    named = root if kind == "flat" else _decoded(root[kind])
    if kind == "model" and root.get("matching_heuristics") is True:
        kind = "suffixes"
    wrong = [name for name, x in named.items() if not isinstance(x, _Array) or x.array is None]
    if wrong or not named:
        what = type(named[wrong[0]]).__name__ if wrong else ""
        found = f"{wrong[0][:100]!r} is a {what}" if wrong else "it is empty"
        raise ValueError(f"is a pickle, expected arrays by name, but {found}")
    return {name: x.array for name, x in named.items()}, {KIND: kind}


def _decoded(items: dict[Any, Any]) -> dict[str, Any]:
    """Returns the items with their names as text. Raises ValueError for other keys."""
    named = {}
    for key, value in items.items():
        name = _text(key)
        if name is None:
            raise ValueError(f"is a pickle with the key {str(key)[:100]!r}, expected names")
        named[name] = value
    return named


def _text(value: Any) -> str | None:
    """Returns text of Python 3, or of Python 2, which is bytes; None for anything else."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else None


def _dtype(arguments: tuple) -> _DType:
    """Makes a dtype of numbers, such as ``dtype("f4", False, True)``."""
    text = _text(arguments[0]) if arguments else None
    if text is None or text[:1] not in KINDS or not text[1:].isdigit():
        given = "nothing" if text is None else repr(text[:20])
        raise ValueError(f"the pickle has an array of the dtype {given}, expected numbers")
    try:
        return _DType(np.dtype(text))
    except TypeError as error:
        raise ValueError(f"the pickle has an array of the dtype {text[:20]!r}") from error


def _reconstruct(arguments: tuple) -> _Array:
    match arguments:
        case (Name("numpy.ndarray"), tuple(), _):
            return _Array()
    raise ValueError("the pickle makes an array in an unknown way")


def _frombuffer(arguments: tuple) -> _Array:
    match arguments:
        case (content, _DType() as kind, tuple() as shape, order) if _text(order) in ("C", "F"):
            return _Array(_view(content, kind.dtype, shape, _text(order)))
    raise ValueError("the pickle makes an array in an unknown way")


def _scalar(arguments: tuple) -> _Array:
    match arguments:
        case (_DType() as kind, content):
            return _Array(_view(content, kind.dtype, (), "C"))
    raise ValueError("the pickle makes a number in an unknown way")


def _view(content: Any, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    """Returns the bytes as an array in the byte order of this machine, after a check of sizes."""
    if not isinstance(content, bytes):
        raise ValueError(f"the content of an array is a {type(content).__name__}, expected bytes")
    if len(shape) > MAX_AXES or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("the sizes of an array are not natural numbers")
    if prod(shape) * dtype.itemsize != len(content):
        raise ValueError(
            f"an array has {len(content)} bytes, expected {str(shape)[:100]} x {dtype.itemsize}"
        )
    array = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="), copy=False)
    return array.reshape(shape, order=order)


def _encode(arguments: tuple) -> bytes:
    """Returns the bytes that Python 3 wrote as text for protocols without bytes."""
    match arguments:
        case (str() as content, encoding) if _text(encoding) in ("latin1", "latin-1"):
            return content.encode("latin-1")
    raise ValueError("the pickle encodes text in an unknown way")


def _ordered_dict(arguments: tuple) -> dict[Any, Any]:
    match arguments:
        case ():
            return {}
        case (list() as pairs,) if all(isinstance(x, list | tuple) and len(x) == 2 for x in pairs):
            return dictionary(pairs)
    raise ValueError("the pickle describes an OrderedDict in an unknown way")


def _bytes(arguments: tuple) -> bytes:
    """Returns empty bytes, which Python 3 writes as a call for protocols without bytes."""
    if arguments:
        raise ValueError("the pickle makes bytes in an unknown way")
    return b""


FUNCTIONS: Mapping[str, Any] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _bytes,
    "builtins.bytes": _bytes,
    "collections.OrderedDict": _ordered_dict,
}


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as the content of a file of Detectron2's model zoo, with protocol 3.

    Any version of NumPy unpickles it, because the old names of its modules stay valid.

    Args:
        file: The file to write.
        arrays: Arrays by name, in C order.

    Raises:
        ValueError: An array has 4 GiB or more, or a dtype that NumPy lacks.
    """
    value, name = pickle_opcodes.value, pickle_opcodes.name
    file.write(pickle.PROTO + b"\x03" + pickle.EMPTY_DICT + pickle.MARK)
    file.write(value("model") + pickle.EMPTY_DICT + pickle.MARK)
    for key, array in arrays.items():
        if array.dtype.kind not in KINDS:
            raise ValueError(f"{key} is an array of {array.dtype}, which NumPy's pickles lack")
        if array.nbytes > MAX_BYTES:
            raise ValueError(f"{key} has {array.nbytes} bytes, at most {MAX_BYTES} fit a .pkl")
        file.write(value(key) + name("numpy.core.multiarray", "_reconstruct"))
        file.write(pickle.MARK + name("numpy", "ndarray") + value((0,)) + value(b"b"))
        file.write(pickle.TUPLE + pickle.REDUCE + pickle.MARK + value(1) + value(array.shape))
        order, kind = array.dtype.str[0], array.dtype.str[1:]
        file.write(name("numpy", "dtype") + value((kind, False, True)) + pickle.REDUCE)
        file.write(value((3, order, None, None, None, -1, -1, 0)) + pickle.BUILD + value(False))
        # The content goes to the file without a copy.
        file.write(pickle.BINBYTES + struct.pack("<I", array.nbytes))
        file.write(array.reshape(-1).view(np.uint8).data)
        file.write(pickle.TUPLE + pickle.BUILD)
    file.write(pickle.SETITEMS + value("__author__") + value(AUTHOR) + pickle.SETITEMS)
    file.write(pickle.STOP)
