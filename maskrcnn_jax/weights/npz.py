"""NumPy archives, one ``.npy`` record for each array: our own format, which `numpy.load` reads as well.

bfloat16, which NumPy's format does not know, is written as raw pairs of bytes (``V2``) and taken for that when read.
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
# `numpy.savez_compressed` saves little on trained weights. What unpacks to more than either bound is no such file.
MAX_UNPACKED_RATIO = 16
MAX_UNPACKED_SMALL = 1 << 26


def read(file: BinaryIO, records: Mapping[str, Record]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of an archive, and the metadata that `write` was given.

    Raises:
        ValueError: The archive holds more than arrays of numbers, or would unpack to more memory than is plausible.
    """
    if not records:
        raise ValueError("is a zip archive without arrays")
    other = [name for name in records if not name.endswith(SUFFIX) and name != metadata.RECORD]
    if other:
        raise ValueError(f"is a zip archive with the record {other[0][:100]!r}, expected PyTorch's data.pkl or arrays")
    unpacked, bound = sum(record.size for record in records.values()), MAX_UNPACKED_RATIO * file.seek(0, 2)
    if unpacked > max(bound, MAX_UNPACKED_SMALL):
        raise ValueError(f"would unpack to {unpacked} bytes, {MAX_UNPACKED_RATIO} times its size or more")
    text = {}
    if metadata.RECORD in records:
        text = metadata.decode(zip_records.read(file, records[metadata.RECORD]).tobytes())
    names = [name for name in records if name.endswith(SUFFIX)]
    return {name.removesuffix(SUFFIX): _read_array(file, records[name]) for name in names}, text


def _read_array(file: BinaryIO, record: Record) -> np.ndarray:
    """An array in the memory of its record: the header's shape has to be the record's, it allocates nothing."""
    content = zip_records.read(file, record)
    header = io.BytesIO(content[:65_536].tobytes())
    try:
        version = np.lib.format.read_magic(header)
        parse = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran_order, dtype = parse(header)
    except (ValueError, KeyError) as error:
        raise ValueError(f"record {record.name[:100]!r} is not a NumPy array: {error}") from error
    if dtype.kind not in KINDS and dtype != RAW_BFLOAT16:
        raise ValueError(f"record {record.name[:100]!r} is an array of {dtype}, expected numbers")
    elements = content[header.tell() :]
    if prod(shape) * dtype.itemsize != elements.nbytes or any(size < 0 for size in shape):
        raise ValueError(
            f"record {record.name[:100]!r} has {elements.nbytes} bytes, expected {shape} x {dtype.itemsize}"
        )
    array = np.frombuffer(elements, dtype).astype(dtype.newbyteorder("="), copy=False)
    array = array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
    return array.view(ml_dtypes.bfloat16) if dtype == RAW_BFLOAT16 else array


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], text: Mapping[str, str]) -> None:
    """Writes arrays in C order, uncompressed, and the metadata into a record of its own."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            raw = array.view(RAW_BFLOAT16) if array.dtype == ml_dtypes.bfloat16 else array
            with archive.open(zipfile.ZipInfo(name + SUFFIX), "w", force_zip64=True) as record:
                np.lib.format.write_array(record, raw, allow_pickle=False)
        archive.writestr(zipfile.ZipInfo(metadata.RECORD), metadata.encode(text))
