"""Assembles files of PyTorch byte by byte, valid and invalid ones, without PyTorch."""

import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
MACHINE = b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(content)]) + content


def sequence(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def integers(*values: int) -> bytes:
    return sequence(*(integer(value) for value in values))


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + sequence(*arguments) + b"R"


def mapping(items: dict[str, bytes], start: bytes = b"}") -> bytes:
    return start + b"(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


ORDERED_DICT = call(name("collections", "OrderedDict"))


def storage(key: str, num_elements: int, kind: str = "FloatStorage", *more: bytes) -> bytes:
    return (
        sequence(
            text("storage"),
            name("torch", kind),
            text(key),
            text("cpu"),
            integer(num_elements),
            *more,
        )
        + b"Q"
    )


def tensor(where: bytes, shape: tuple, strides: tuple, offset: int = 0, *more: bytes) -> bytes:
    function = name("torch._utils", "_rebuild_tensor_v2")
    return call(
        function,
        where,
        integer(offset),
        integers(*shape),
        integers(*strides),
        b"\x89",
        ORDERED_DICT,
        *more,
    )


def parameter(of: bytes) -> bytes:
    return call(name("torch._utils", "_rebuild_parameter"), of, b"\x88", ORDERED_DICT)


def protocol2(content: bytes) -> bytes:
    return b"\x80\x02" + content + b"."


def zip_file(
    content: bytes, storages: dict[str, bytes], *, compressed: bool = False, **more: bytes
) -> bytes:
    """Wraps the content of a pickle in the zip format; ``more`` are additional records."""
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    records = {"data.pkl": protocol2(content), **more} | {
        f"data/{key}": value for key, value in storages.items()
    }
    records["version"] = b"3\n"
    return archive({f"model/{record}": value for record, value in records.items()}, kind)


def archive(records: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as writer:
        for record, value in records.items():
            writer.writestr(zipfile.ZipInfo(record), value, compress_type=kind)
    return file.getvalue()


def legacy_file(
    content: bytes, storages: dict[str, np.ndarray], keys: bytes | None = None
) -> bytes:
    """Wraps the content of a pickle in the legacy format."""
    listed = (
        protocol2(b"](" + b"".join(text(key) for key in storages) + b"e") if keys is None else keys
    )
    blocks = [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    return b"".join([MAGIC, PROTOCOL, MACHINE, protocol2(content), listed, *blocks])


def patched_directory(content: bytes, record: str, **fields: int) -> bytes:
    """Changes fields of a record in the central directory of an archive."""
    places = {
        "method": (10, "<H"),
        "crc": (16, "<I"),
        "stored_size": (20, "<I"),
        "size": (24, "<I"),
        "start": (42, "<I"),
    }
    patched = bytearray(content)
    entry = content.index(b"PK\x01\x02")
    while content[entry + 46 : entry + 46 + len(record)] != record.encode():
        entry = content.index(b"PK\x01\x02", entry + 1)
    for field, value in fields.items():
        place, form = places[field]
        struct.pack_into(form, patched, entry + place, value)
    return bytes(patched)
