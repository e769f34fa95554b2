"""The records of a zip archive that nobody vouches for: where they lie is checked before any of them is read.

The central directory at the end of an archive says where each record is and how long. Here every record has to lie
inside the file, apart from all others, under the name that its own header gives, once. So the bytes of uncompressed
records are never more than those of the file.
"""

import struct
import zipfile
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
ENCRYPTED, UTF8 = 0x1, 0x800  # Bits of a record's flags.


class Record(NamedTuple):
    """Where the bytes of a record are, and how many."""

    name: str
    offset: int
    stored_size: int  # In the file.
    size: int  # Unpacked.
    deflated: bool
    crc: int


def directory(file: BinaryIO) -> dict[str, Record]:
    """The records of an archive by name, in the order of its central directory.

    Raises:
        ValueError: The archive is damaged, or its directory contradicts the file; the message says how.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error, MemoryError) as error:
        raise ValueError(f"the zip archive is damaged or cut short: {error}") from error
    file_size = file.seek(0, 2)
    records: dict[str, Record] = {}
    end = 0
    located = {entry.header_offset: _locate(file, entry, file_size) for entry in entries}
    for start, record in sorted(located.items()):
        if start < end:
            raise ValueError(f"record {record.name[:100]!r} of the zip archive overlaps another one")
        end = record.offset + record.stored_size
    for entry in entries:
        record = located[entry.header_offset]
        if entry.orig_filename in records or record.name != entry.orig_filename:
            raise ValueError(f"the zip archive has two records of one name or place: {record.name[:100]!r}")
        records[record.name] = record
    return records


def _locate(file: BinaryIO, entry: zipfile.ZipInfo, file_size: int) -> Record:
    """Where the bytes of a record begin; only the header in front of them says it."""
    name = entry.orig_filename
    if entry.header_offset < 0 or entry.header_offset + LOCAL_HEADER.size > file_size:
        raise ValueError(f"record {name[:100]!r} of the zip archive lies outside the file")
    file.seek(entry.header_offset)
    header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    signature, flags, method, name_size, extra_size = header[0], header[2], header[3], header[9], header[10]
    spelled = file.read(name_size).decode("utf-8" if flags & UTF8 else "cp437", "replace")
    if signature != b"PK\x03\x04" or method != entry.compress_type or spelled != name:
        raise ValueError(f"the zip archive's directory says {name[:100]!r}, the header at that place does not")
    if (flags | entry.flag_bits) & ENCRYPTED or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"record {name[:100]!r} of the zip archive is encrypted or packed in an unusual way")
    deflated = method == zipfile.ZIP_DEFLATED
    if not deflated and entry.compress_size != entry.file_size:
        raise ValueError(f"record {name[:100]!r} declares two sizes: {entry.compress_size} and {entry.file_size} bytes")
    offset = entry.header_offset + LOCAL_HEADER.size + name_size + extra_size
    if offset + entry.compress_size > file_size:
        raise ValueError(
            f"record {name[:100]!r} of {entry.compress_size} bytes at {offset} goes beyond the file's {file_size}"
        )
    return Record(name, offset, entry.compress_size, entry.file_size, deflated, entry.CRC)


def read(file: BinaryIO, record: Record) -> UInt8[np.ndarray, " n"]:
    """The bytes of a record, unpacked, in memory of their own.

    Raises:
        ValueError: They are not as many as declared, or their checksum is wrong.
    """
    content = np.empty(record.stored_size, np.uint8)
    file.seek(record.offset)
    if file.readinto(content.data) != record.stored_size:
        raise ValueError(f"record {record.name!r} is cut short")
    if record.deflated:
        content = _inflate(content, record)
    if zlib.crc32(content) != record.crc:
        raise ValueError(f"record {record.name!r} is damaged: its checksum is wrong")
    return content


def _inflate(content: UInt8[np.ndarray, " n"], record: Record) -> UInt8[np.ndarray, " m"]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than declared is enough to find the lie. A bound of 0 would mean none.
        unpacked = inflater.decompress(content, record.size + 1)
    except zlib.error as error:
        raise ValueError(f"record {record.name!r} is damaged: {error}") from error
    if len(unpacked) != record.size or not inflater.eof:
        raise ValueError(f"record {record.name!r} does not unpack to the {record.size} bytes it declares")
    return np.frombuffer(unpacked, np.uint8)
