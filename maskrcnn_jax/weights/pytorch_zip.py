"""PyTorch's zip format, which `torch.save` writes since version 1.6, without PyTorch.

An archive has one folder of any name with the records ``data.pkl`` (the pickle), ``data/KEY`` (one
for each storage), ``version``, ``byteorder``, and others that are not needed here. No record is
compressed.
"""

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np

from maskrcnn_jax.weights import metadata, pickle_opcodes, pytorch, state_dicts, zip_records
from maskrcnn_jax.weights.restricted_pickle import BoundedFile
from maskrcnn_jax.weights.zip_records import Record

PICKLE = "/data.pkl"
FOLDER = "archive"
ALIGNMENT = 64  # Alignment of the storages in bytes, so that a file can be mapped into memory.
# Name and length of the extra field before a record; PyTorch pads with this field.
PADDING = struct.Struct("<2sH")
LOCAL_HEADER_SIZE = 30


def read(
    file: BinaryIO, records: Mapping[str, Record]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays of a state dict, read-only, and our metadata.

    Args:
        file: The archive.
        records: The records of the archive; see `zip_records.directory`.

    Raises:
        ValueError: The archive is not a state dict from `torch.save`; the message says why.
    """
    folder = _folder(records)
    if any(record.deflated for record in records.values()):
        raise ValueError("is a PyTorch archive with compressed records, which PyTorch never writes")
    if records[folder + PICKLE].size > pytorch.MAX_PICKLE_BYTES:
        raise ValueError(
            f"its pickle has more than {pytorch.MAX_PICKLE_BYTES} bytes: too many for a state dict"
        )
    content = zip_records.read(file, records[folder + PICKLE]).tobytes()
    loaded = pytorch.load_pickle(BoundedFile(io.BytesIO(content)), is_checkpoint=True)
    tensors, taken = state_dicts.find(loaded)
    contents = {}
    for key in {tensor.storage.key: None for tensor in tensors.values()}:
        if f"{folder}/data/{key}" not in records:
            raise ValueError(f"storage {key[:100]!r} has no record")
        contents[key] = zip_records.read(file, records[f"{folder}/data/{key}"])
    swap_bytes = _byte_order(file, records, folder) != sys.byteorder
    arrays = {
        name: pytorch.array(tensor, contents[tensor.storage.key], swap_bytes=swap_bytes)
        for name, tensor in tensors.items()
    }
    return arrays, taken | pytorch.facts(loaded.root) | _metadata(file, records, folder)


def _folder(records: Mapping[str, Record]) -> str:
    folders = [name.removesuffix(PICKLE) for name in records if name.endswith(PICKLE)]
    if len(folders) != 1:
        raise ValueError(f"has {len(folders)} records .../data.pkl, expected one")
    if f"{folders[0]}/constants.pkl" in records:
        raise ValueError(
            "is a TorchScript program, expected a state dict: save model.state_dict() instead"
        )
    return folders[0]


def _byte_order(file: BinaryIO, records: Mapping[str, Record], folder: str) -> str:
    """Returns the byte order; files of old versions do not store it and are little-endian."""
    record = records.get(f"{folder}/byteorder")
    if record is None:
        return "little"
    order = zip_records.read(file, record).tobytes()[:100]
    if order not in (b"little", b"big"):
        raise ValueError(f"its byte order is {order!r}, expected little or big")
    return order.decode("ascii")


def _metadata(file: BinaryIO, records: Mapping[str, Record], folder: str) -> dict[str, str]:
    record = records.get(f"{folder}/{metadata.RECORD}")
    return {} if record is None else metadata.decode(zip_records.read(file, record).tobytes())


def write(
    file: BinaryIO,
    arrays: Mapping[str, np.ndarray],
    text: Mapping[str, str],
    classes: Sequence[str] | None = None,
) -> None:
    """Writes a state dict that ``torch.load(path, weights_only=True)`` reads as an OrderedDict.

    Each array has its own storage. PyTorch ignores the metadata.

    Args:
        file: The file to write.
        arrays: Arrays by name, in C order and in the byte order of the machine.
        text: The metadata.
        classes: Names of classes. With these the file is a checkpoint as MMDetection's, with the
            names in its ``meta`` and the state dict beside.

    Raises:
        ValueError: PyTorch has no storage class for a dtype.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_record(file, archive, "data.pkl", _pickle(arrays, classes))
        _write_record(file, archive, metadata.RECORD, metadata.encode(text))
        _write_record(file, archive, "byteorder", sys.byteorder.encode("ascii"))
        for key, array in enumerate(arrays.values()):
            _write_record(file, archive, f"data/{key}", array.reshape(-1).view(np.uint8).data)
        _write_record(file, archive, "version", b"3\n")


def _write_record(
    file: BinaryIO, archive: zipfile.ZipFile, name: str, content: bytes | memoryview
) -> None:
    record = zipfile.ZipInfo(f"{FOLDER}/{name}")
    start = file.tell() + LOCAL_HEADER_SIZE + len(record.filename) + PADDING.size
    padding = -start % ALIGNMENT
    record.extra = PADDING.pack(b"FB", padding) + b"Z" * padding
    archive.writestr(record, content)


def _pickle(arrays: Mapping[str, np.ndarray], classes: Sequence[str] | None) -> bytes:
    """Pickles an OrderedDict of tensors with protocol 2, alone or in a checkpoint."""
    value, name = pickle_opcodes.value, pickle_opcodes.name
    parts = [pickle.PROTO, b"\x02"]
    if classes is not None:
        meta = {"dataset_meta": {"classes": tuple(classes)}}
        parts += [pickle.EMPTY_DICT, pickle.MARK, value("meta"), value(meta), value("state_dict")]
    ordered_dict = name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts += [ordered_dict, pickle.MARK]
    for key, (label, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        storage_class = name("torch", _storage_class(label, array))
        parts += [value(label), name("torch._utils", "_rebuild_tensor_v2"), pickle.MARK]
        parts += [pickle.MARK, value("storage"), storage_class, value(str(key)), value("cpu")]
        parts += [value(array.size), pickle.TUPLE, pickle.BINPERSID]
        parts += [value(0), value(array.shape), value(strides), value(False)]
        parts += [ordered_dict, pickle.TUPLE, pickle.REDUCE]
    parts += [pickle.SETITEMS] if classes is None else [pickle.SETITEMS, pickle.SETITEMS]
    return b"".join([*parts, pickle.STOP])


def _storage_class(name: str, array: np.ndarray) -> str:
    for storage, dtype in pytorch.STORAGES.items():
        if dtype == array.dtype:
            return storage.removeprefix("torch.")
    raise ValueError(f"{name} is {array.dtype}, which PyTorch's files cannot hold")
