"""Common parts of PyTorch's two file formats: a pickle of tensors, which are views of storages.

The supported content is a state dict, that is tensors by name, alone or within a checkpoint that
also has numbers and text.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import UInt8

from maskrcnn_jax.weights.restricted_pickle import (
    FOR_CHECKPOINTS,
    BoundedFile,
    Name,
    Opaque,
    RestrictedUnpickler,
    dictionary,
    refusal,
)

STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
# A tensor takes about 250 bytes of the pickle. Checkpoints of a training may hold arrays there too,
# such as the history of the losses.
MAX_PICKLE_BYTES = 1 << 26
# Text beside a state dict that tells what it is of, by the key that it gets here: paths of keys in
# a checkpoint, of which the first that exists counts. Only MMDetection's files have these.
FACTS = {
    "checkpoint.config": (("meta", "cfg"), ("meta", "config")),
    "checkpoint.classes": (
        ("meta", "dataset_meta", "classes"),
        ("meta", "dataset_meta", "CLASSES"),
        ("meta", "CLASSES"),
    ),
}
MAX_CLASSES = 100_000
# Largest number of elements of a tensor that repeats elements of its storage. The limit keeps a
# small file from becoming a huge array.
MAX_REPEATED = 1 << 20
MAX_AXES = 64  # The limit of NumPy.


class Storage(NamedTuple):
    """A block of elements somewhere in the file."""

    dtype: np.dtype
    key: str
    num_elements: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Pickle(NamedTuple):
    """The object in a pickle of PyTorch, and all storages that it refers to."""

    root: Any
    storages: dict[str, Storage]
    opaque: list[str]  # Names of classes and functions that were skipped.


def load_pickle(file: BoundedFile, *, is_checkpoint: bool = False) -> Pickle:
    """Reads the pickle of tensors, without the content of the storages.

    Args:
        file: The pickle.
        is_checkpoint: Whether objects of other classes are skipped; see `state_dicts`.

    Raises:
        ValueError: The pickle is damaged, needs anything but tensors and plain containers, or has a
            tensor that exceeds its storage.
    """
    storages: dict[str, Storage] = {}

    def persistent_load(identifier: Any) -> Storage:
        storage = _storage(identifier)
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {storage.key[:100]!r} is declared twice, differently")
        return storage

    opcodes = {"opcodes": FOR_CHECKPOINTS, "has_opaque": True} if is_checkpoint else {}
    unpickler = RestrictedUnpickler(FUNCTIONS, persistent_load, **opcodes)
    return Pickle(unpickler.load(file), storages, unpickler.opaque)


def facts(root: Any) -> dict[str, str]:
    """Returns the texts of a checkpoint that `FACTS` names, lists as JSON."""
    found = {}
    for name, paths in FACTS.items():
        for path in paths:
            value = root
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            text = _text(value)
            if text is not None:
                found.setdefault(name, text)
    return found


def _text(value: Any) -> str | None:
    """Returns a text, or a list of texts as JSON; None for anything else."""
    if isinstance(value, str):
        return value
    is_list = isinstance(value, list | tuple) and 0 < len(value) <= MAX_CLASSES
    if is_list and all(isinstance(x, str) for x in value):
        return json.dumps(value)
    return None


def array(
    tensor: Tensor, content: UInt8[np.ndarray, " n"], *, swap_bytes: bool = False
) -> np.ndarray:
    """Returns a read-only view of the bytes of a storage.

    Tensors of the same storage share memory.

    Args:
        tensor: The view to make.
        content: The bytes of the storage.
        swap_bytes: Whether the file has the other byte order.

    Raises:
        ValueError: The storage does not have the declared number of bytes.
    """
    dtype, _, num_elements = tensor.storage
    if content.nbytes != num_elements * dtype.itemsize:
        raise ValueError(
            f"storage {tensor.storage.key!r} has {content.nbytes} bytes, "
            f"expected {num_elements} x {dtype.itemsize}"
        )
    if swap_bytes:  # Swap as unsigned integers, because bfloat16 has no byte order.
        content = content.view(f"u{dtype.itemsize}").byteswap().view(np.uint8)
    elements = content.view(dtype)[tensor.offset :]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(elements, tensor.shape, strides, writeable=False)


def _storage(identifier: Any) -> Storage:
    """Decodes a persistent id: class, key, device, number of elements, and in old files a view."""
    match identifier:
        case ("storage", Name(kind), str() as key, str(), int() as num_elements, *view) if (
            kind in STORAGES and num_elements >= 0 and view in ([], [None])
        ):
            return Storage(STORAGES[kind], key, num_elements)
    if isinstance(identifier, tuple):
        for part in identifier:
            if isinstance(part, Opaque):
                raise ValueError(refusal(part.text))
    raise ValueError("the pickle refers to something that is not a storage of tensors known here")


def _rebuild_tensor(arguments: tuple) -> Tensor:
    match arguments:
        # The marks after the hooks say that a tensor is conjugated or negated, so that its storage
        # does not hold its values.
        case (
            Storage() as storage,
            int() as offset,
            tuple() as shape,
            tuple() as strides,
            bool(),
            _,
            *marks,
        ) if not any(marks):
            return _checked(Tensor(storage, offset, shape, strides))
    raise ValueError("the pickle describes a tensor in an unknown way")


def _checked(tensor: Tensor) -> Tensor:
    """Raises ValueError if a tensor exceeds its storage. Python's integers do not overflow."""
    storage, offset, shape, strides = tensor
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise ValueError("a tensor has an offset, size or stride that is not a natural number")
    if len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise ValueError(
            f"a tensor has {len(shape)} axes and {len(strides)} strides, "
            f"expected as many, up to {MAX_AXES}"
        )
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    end = offset if 0 in shape else last + 1
    if end > storage.num_elements:
        raise ValueError(
            f"a tensor reaches to element {end} of storage {storage.key[:100]!r}, "
            f"which has {storage.num_elements}"
        )
    if prod(max(size, 1) for size in shape) > max(storage.num_elements, MAX_REPEATED):
        raise ValueError(
            f"a tensor has the sizes {shape}, but its storage only {storage.num_elements} elements"
        )
    return tensor


def _rebuild_parameter(arguments: tuple) -> Tensor:
    match arguments:
        case (Tensor() as tensor, bool(), _):
            return tensor
    raise ValueError("the pickle describes a parameter in an unknown way")


def _ordered_dict(arguments: tuple) -> dict[Any, Any]:
    """Makes an empty OrderedDict, or one of a list of pairs, as Python 2 pickles it."""
    match arguments:
        case ():
            return {}
        case (list() as pairs,) if all(
            isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
        ):
            return dictionary(pairs)
    raise ValueError("the pickle describes an OrderedDict in an unknown way")


def _counter(arguments: tuple) -> dict[Any, Any]:
    """Makes a Counter, which learning-rate schedulers in checkpoints contain."""
    match arguments:
        case () | (dict(),):
            return dict(*arguments)
    raise ValueError("the pickle describes a Counter in an unknown way")


def _size(arguments: tuple) -> tuple:
    match arguments:
        case (tuple() as sizes,):
            return sizes
    raise ValueError("the pickle describes a torch.Size in an unknown way")


# All names that a file may use, with the function to call; names with None must not be called.
FUNCTIONS: Mapping[str, Any] = dict.fromkeys(STORAGES) | {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
