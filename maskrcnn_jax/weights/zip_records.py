"""The records of an untrusted zip archive: their positions are checked before any is read.

The central directory at the end of an archive gives the position and length of each record. Here
every record must lie inside the file, overlap no other record, have the same name in its own
header, and occur once. Therefore uncompressed records never have more bytes than the file.
"""

import struct
import zipfile
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
ENCRYPTED, UTF8 = 0x1, 0x800  # Bits in the flags of a record.


class Record(NamedTuple):
    """The position and the size of a record."""

    name: str
    offset: int  # Position of the first byte.
    stored_size: int  # Bytes in the file.
    size: int  # Bytes after decompression.
    deflated: bool
    crc: int


def directory(file: BinaryIO) -> dict[str, Record]:
    """Returns the records of an archive by name, in the order of its central directory.

    Raises:
        ValueError: The archive is damaged, or its directory contradicts the file; the message says
            how.
    """
    refused = (zipfile.BadZipFile, NotImplementedError, ValueError)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (*refused, OSError, struct.error, MemoryError) as error:
        raise ValueError(f"the zip archive is damaged or cut short: {error}") from error
    file_size = file.seek(0, 2)
    records: dict[str, Record] = {}
    end = 0
    located = {entry.header_offset: _locate(file, entry, file_size) for entry in entries}
    for start, record in sorted(located.items()):
        if start < end:
            raise ValueError(
                f"record {record.name[:100]!r} of the zip archive overlaps another one"
            )
        end = record.offset + record.stored_size
    for entry in entries:
        record = located[entry.header_offset]
        if entry.orig_filename in records or record.name != entry.orig_filename:
            raise ValueError(
                f"the zip archive has two records of one name or place: {record.name[:100]!r}"
            )
        records[record.name] = record
    return records


def _locate(file: BinaryIO, entry: zipfile.ZipInfo, file_size: int) -> Record:
    """Finds the first byte of a record; its position follows from the record's own header."""
    name = entry.orig_filename
    if entry.header_offset < 0 or entry.header_offset + LOCAL_HEADER.size > file_size:
        raise ValueError(f"record {name[:100]!r} of the zip archive lies outside the file")
    file.seek(entry.header_offset)
    header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    signature, _, flags, method, *_, name_size, extra_size = header
    encoding = "utf-8" if flags & UTF8 else "cp437"
    own_name = file.read(name_size).decode(encoding, "replace")
    if signature != b"PK\x03\x04" or method != entry.compress_type or own_name != name:
        raise ValueError(
            f"the zip archive's directory says {name[:100]!r}, the header at that place does not"
        )
    is_encrypted = (flags | entry.flag_bits) & ENCRYPTED
    if is_encrypted or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"record {name[:100]!r} of the zip archive is encrypted or packed in an unusual way"
        )
    deflated = method == zipfile.ZIP_DEFLATED
    if not deflated and entry.compress_size != entry.file_size:
        raise ValueError(
            f"record {name[:100]!r} declares two sizes: "
            f"{entry.compress_size} and {entry.file_size} bytes"
        )
    offset = entry.header_offset + LOCAL_HEADER.size + name_size + extra_size
    if offset + entry.compress_size > file_size:
        raise ValueError(
            f"record {name[:100]!r} of {entry.compress_size} bytes at {offset} "
            f"goes beyond the file's {file_size}"
        )
    return Record(name, offset, entry.compress_size, entry.file_size, deflated, entry.CRC)


def read(file: BinaryIO, record: Record) -> UInt8[np.ndarray, " n"]:
    """Reads and decompresses a record.

    Returns:
        The bytes, in new memory.

    Raises:
        ValueError: The size differs from the declared one, or the checksum is wrong.
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
        # One more byte than declared reveals a wrong size. A limit of 0 would mean no limit.
        unpacked = inflater.decompress(content, record.size + 1)
    except zlib.error as error:
        raise ValueError(f"record {record.name!r} is damaged: {error}") from error
    if len(unpacked) != record.size or not inflater.eof:
        raise ValueError(
            f"record {record.name!r} does not unpack to the {record.size} bytes it declares"
        )
    return np.frombuffer(unpacked, np.uint8)
