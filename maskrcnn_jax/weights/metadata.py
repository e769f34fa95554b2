"""What a weight file says beside its arrays: text by key, as JSON in a record of its own."""

import json
from collections.abc import Mapping

RECORD = "maskrcnn_jax.json"
MAX_BYTES = 1 << 22


def encode(metadata: Mapping[str, str]) -> bytes:
    """The record's bytes, in ASCII.

    Raises:
        ValueError: The text is too long.
    """
    record = json.dumps(dict(metadata)).encode("ascii")
    _check_size(record)
    return record


def decode(record: bytes) -> dict[str, str]:
    """The text that `encode` was given.

    Raises:
        ValueError: The record is too long, or is not text by key.
    """
    _check_size(record)
    try:
        metadata = json.loads(record)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{RECORD} is not JSON") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{RECORD} is not an object of strings")
    return metadata


def _check_size(record: bytes) -> None:
    if len(record) > MAX_BYTES:
        raise ValueError(f"the metadata have {len(record)} bytes, expected at most {MAX_BYTES}")
