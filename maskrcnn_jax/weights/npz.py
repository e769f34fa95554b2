"""NumPy archives with one ``.npy`` record for each array: our own format.

`numpy.load` reads the archives too. NumPy's format has no bfloat16, so such arrays are written as
raw pairs of bytes (``V2``), and ``V2`` is read as bfloat16.
"""

import io
import zipfile
from collections.abc import Mapping
from math import prod
from typing import BinaryIO

import ml_dtypes
import numpy as np

from maskrcnn_jax.weights import metadata, zip_records
from maskrcnn_jax.weights.zip_records import Record

SUFFIX = ".npy"
KINDS = "biuf"  # Booleans, signed and unsigned integers, floats.
RAW_BFLOAT16 = np.dtype("V2")
# Trained weights compress badly. An archive that unpacks to more than both bounds is refused.
MAX_UNPACKED_RATIO = 16
MAX_UNPACKED_SMALL = 1 << 26


def read(
    file: BinaryIO, records: Mapping[str, Record]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays and the metadata of an archive.

    Args:
        file: The archive.
        records: The records of the archive; see `zip_records.directory`.

    Raises:
        ValueError: The archive holds anything but arrays of numbers and metadata, or would unpack
            to an implausible size.
    """
    if not records:
        raise ValueError("is a zip archive without arrays")
    other = [name for name in records if not name.endswith(SUFFIX) and name != metadata.RECORD]
    if other:
        raise ValueError(
            f"is a zip archive with the record {other[0][:100]!r}, "
            "expected PyTorch's data.pkl or arrays"
        )
    unpacked = sum(record.size for record in records.values())
    file_size = file.seek(0, 2)
    if unpacked > max(MAX_UNPACKED_RATIO * file_size, MAX_UNPACKED_SMALL):
        raise ValueError(
            f"would unpack to {unpacked} bytes, {MAX_UNPACKED_RATIO} times its size or more"
        )
    text = {}
    if metadata.RECORD in records:
        text = metadata.decode(zip_records.read(file, records[metadata.RECORD]).tobytes())
    names = [name for name in records if name.endswith(SUFFIX)]
    return {name.removesuffix(SUFFIX): _read_array(file, records[name]) for name in names}, text


def _read_array(file: BinaryIO, record: Record) -> np.ndarray:
    """Returns an array in the memory of its record.

    The shape in the header must match the size of the record, so it cannot cause an allocation.
    """
    content = zip_records.read(file, record)
    header = io.BytesIO(content[:65_536].tobytes())
    parsers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        parse = parsers[np.lib.format.read_magic(header)]
        shape, fortran_order, dtype = parse(header)
    except Exception as error:  # NumPy evaluates the header as a literal, which fails in many ways.
        reason = f"record {record.name[:100]!r} is not a NumPy array: {str(error)[:200]}"
        raise ValueError(reason) from error
    if dtype.kind not in KINDS and dtype != RAW_BFLOAT16:
        raise ValueError(f"record {record.name[:100]!r} is an array of {dtype}, expected numbers")
    elements = content[header.tell() :]
    are_sizes = all(type(size) is int and size >= 0 for size in shape)  # True is no size.
    if not are_sizes or prod(shape) * dtype.itemsize != elements.nbytes:
        raise ValueError(
            f"record {record.name[:100]!r} has {elements.nbytes} bytes, "
            f"expected {shape} x {dtype.itemsize}"
        )
    array = np.frombuffer(elements, dtype).astype(dtype.newbyteorder("="), copy=False)
    array = array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
    return array.view(ml_dtypes.bfloat16) if dtype == RAW_BFLOAT16 else array


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], text: Mapping[str, str]) -> None:
    """Writes arrays in C order, uncompressed, and the metadata as another record."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            raw = array.view(RAW_BFLOAT16) if array.dtype == ml_dtypes.bfloat16 else array
            with archive.open(zipfile.ZipInfo(name + SUFFIX), "w", force_zip64=True) as record:
                np.lib.format.write_array(record, raw, allow_pickle=False)
        archive.writestr(zipfile.ZipInfo(metadata.RECORD), metadata.encode(text))
