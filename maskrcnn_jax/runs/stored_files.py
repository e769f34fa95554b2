"""Checks that the files of a checkpoint are as long as its index says, without reading them whole.

Orbax writes the arrays of an item into an OCDBT database: an index, whose entries name a file, an
offset and a length.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import tensorstore

_ARRAY = b"/.zarray"  # Ends the key of the header of an array.


def check(item: Path) -> None:
    """Checks one item of a checkpoint.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The index cannot be read, a file is too short or lies elsewhere, or an array has
            no data. The message begins with a code of tensorstore.
    """
    ends: dict[str, int] = defaultdict(int)
    arrays, with_data = set(), set()
    for key, location in _entries(item):
        name, _, last = key.rpartition("/")
        (arrays if last == ".zarray" else with_data).add(name)
        if location is not None:
            file, end = _extent(location)
            if ".." in Path(file).parts or Path(file).is_absolute():
                raise ValueError(f"DATA_LOSS: {item} names a file outside of it: {file[:200]!r}")
            ends[file] = max(ends[file], end)
    if arrays - with_data or not arrays:
        raise ValueError(f"DATA_LOSS: {item} has no data of {sorted(arrays - with_data)[:3]}")
    for file, end in ends.items():
        size = (item / file).stat().st_size
        if size < end:
            raise ValueError(f"DATA_LOSS: {item / file} has {size} bytes of {end}")


def saved_shapes(item: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of an item, by the path in its tree, such as "params.fpn.kernel".

    Reads the last byte of each value, so files that are missing or too short are noticed as in
    `check`. Unlike `check` it keeps no memory: `tensorstore.ocdbt.dump` never frees its answers.

    Raises:
        FileNotFoundError, ValueError: The index, the description of the tree, or a value cannot be
            read.
    """
    json.loads((item / "_METADATA").read_bytes())  # Without it Orbax reads nothing.
    base = {"driver": "file", "path": f"{item}/"}
    database = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    keys = database.list().result()
    # All reads start before the first is waited for: a bucket answers each after a while.
    ends = {key: database.read(key, byte_range=slice(-1, None)) for key in keys}
    for key, end in ends.items():
        if not end.result().value:  # The file is missing.
            raise ValueError(f"DATA_LOSS: {item} has no data of {key.decode()}")
    headers = {key.removesuffix(_ARRAY): key for key in keys if key.endswith(_ARRAY)}
    with_data = {key.rpartition(b"/")[0] for key in keys if not key.endswith(_ARRAY)}
    if without := sorted(headers.keys() - with_data):
        raise ValueError(f"DATA_LOSS: {item} has no data of {without[:3]}")
    found = {name.decode(): database.read(key) for name, key in headers.items()}
    return {name: tuple(json.loads(x.result().value)["shape"]) for name, x in found.items()}


def _entries(item: Path) -> Iterator[tuple[str, str | None]]:
    """The keys of the database, and where their values are; None for values in the index."""
    spec = {"driver": "file", "path": f"{item}/"}
    base = tensorstore.KvStore.open(spec).result()
    root = tensorstore.ocdbt.dump(base).result()["versions"][-1]["root"]
    nodes = [root["location"]] if "location" in root else []
    while nodes:
        for entry in tensorstore.ocdbt.dump(base, nodes.pop()).result()["entries"]:
            if "location" in entry:
                nodes.append(entry["location"])
            else:
                yield entry["key"].decode(), entry.get("indirect_value")


def _extent(location: str) -> tuple[str, int]:
    """The file of a value, relative to the item, and the end of the value in it."""
    _, folder, file, offset, length = location.split(":")
    return unquote(folder) + unquote(file), int(offset) + int(length)
