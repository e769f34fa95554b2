"""Common parts of PyTorch's two file formats: a pickle of tensors, which are views of storages.

The supported content is a state dict, that is tensors by name, alone or within a checkpoint that
also has numbers and text.
"""

import io
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import UInt8

from maskrcnn_jax.weights.restricted_pickle import Name, RestrictedUnpickler, dictionary

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
WRAPPERS = ("model", "state_dict", "model_state_dict")
# A tensor usually takes about 250 bytes of the pickle; its Python objects are many times larger.
MAX_PICKLE_BYTES = 1 << 22
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


def load_pickle(file: io.BytesIO) -> Pickle:
    """Reads the pickle of tensors, without the content of the storages.

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

    return Pickle(RestrictedUnpickler(FUNCTIONS, persistent_load).load(file), storages)


def state_dict(root: Any) -> dict[str, Tensor]:
    """Returns the tensors of a state dict, or of a checkpoint that contains one.

    Raises:
        ValueError: The object is not a state dict; the message says what it contains instead.
    """
    if isinstance(root, dict):
        wrapped = [root[key] for key in WRAPPERS if isinstance(root.get(key), dict)]
        root = wrapped[0] if wrapped else root
    if not isinstance(root, dict):
        raise ValueError(f"holds a {type(root).__name__}, expected a state dict: tensors by name")
    wrong = []
    for key, x in root.items():
        if not isinstance(x, Tensor):
            wrong.append(f"{str(key)[:100]!r} is a {type(x).__name__}")
    for key in root:
        if not isinstance(key, str):
            wrong.append(f"the name {str(key)[:100]!r} is a {type(key).__name__}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"expected a state dict, only tensors by name, but {', '.join(wrong[:5])}{more}"
        )
    return root


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
