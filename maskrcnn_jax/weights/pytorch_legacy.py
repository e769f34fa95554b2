"""PyTorch's file format before version 1.6: five pickles, then the storages.

The pickles are a magic number, the protocol version, facts about the machine, the object, and the
keys of the storages in their order in the file. Each storage is preceded by its number of elements.
All numbers are little-endian on any machine.
"""

import struct
import sys
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from maskrcnn_jax.weights import pytorch, state_dicts
from maskrcnn_jax.weights.pytorch import Storage
from maskrcnn_jax.weights.restricted_pickle import BoundedFile

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
START = b"\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little")  # In the first bytes, in any protocol.
PROTOCOL_VERSION = 1001
NUM_ELEMENTS = struct.Struct("<q")


def read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays of a state dict, read-only, and what a checkpoint says about them.

    Raises:
        ValueError: The file is damaged or not a state dict; the message says why.
    """
    pickles = BoundedFile(file, pytorch.MAX_PICKLE_BYTES)
    if pytorch.load_pickle(pickles).root != MAGIC_NUMBER:
        raise ValueError(
            "is a pickle without PyTorch's magic number, expected what torch.save writes"
        )
    if pytorch.load_pickle(pickles).root != PROTOCOL_VERSION:
        raise ValueError(f"is a legacy file of PyTorch, but not of its protocol {PROTOCOL_VERSION}")
    pytorch.load_pickle(pickles)  # Facts about the machine.
    loaded = pytorch.load_pickle(pickles, is_checkpoint=True)
    keys = pytorch.load_pickle(pickles).root
    if not isinstance(keys, list) or any(not isinstance(key, str) for key in keys):
        raise ValueError("the keys of its storages are not a list of strings")
    if sorted(keys) != sorted(loaded.storages):
        raise ValueError("the storages that follow are not those that the tensors need")
    tensors, taken = state_dicts.find(loaded)
    wanted = {tensor.storage.key for tensor in tensors.values()}
    contents = {}
    for key in keys:
        contents[key] = _read_storage(file, loaded.storages[key], skip=key not in wanted)
    swap_bytes = sys.byteorder != "little"
    arrays = {
        name: pytorch.array(tensor, contents[tensor.storage.key], swap_bytes=swap_bytes)
        for name, tensor in tensors.items()
    }
    return arrays, taken | pytorch.facts(loaded.root)


def _read_storage(file: BinaryIO, storage: Storage, *, skip: bool) -> UInt8[np.ndarray, " n"]:
    """Reads the bytes of the next storage, or none if it is skipped."""
    head = file.read(NUM_ELEMENTS.size)
    if len(head) < NUM_ELEMENTS.size:
        raise ValueError(f"is cut short before storage {storage.key[:100]!r}")
    (num_elements,) = NUM_ELEMENTS.unpack(head)
    if num_elements != storage.num_elements:
        raise ValueError(
            f"storage {storage.key[:100]!r} has {num_elements} elements where its tensors expect "
            f"{storage.num_elements}"
        )
    start, size = file.tell(), storage.num_elements * storage.dtype.itemsize
    left = file.seek(0, 2) - start
    if size > left:
        raise ValueError(
            f"is cut short: storage {storage.key[:100]!r} has {size} bytes, {left} are left"
        )
    file.seek(start + size if skip else start)
    content = np.empty(0 if skip else size, np.uint8)
    file.readinto(content.data)
    return content
