"""Metadata in a weight file: strings by key, stored as JSON in one record beside the arrays."""

import json
from collections.abc import Mapping

RECORD = "maskrcnn_jax.json"
MAX_BYTES = 1 << 22


def encode(metadata: Mapping[str, str]) -> bytes:
    """Encodes metadata as the bytes of the record, in ASCII.

    Raises:
        ValueError: The record is longer than `MAX_BYTES`.
    """
    record = json.dumps(dict(metadata)).encode("ascii")
    _check_size(record)
    return record


def decode(record: bytes) -> dict[str, str]:
    """Decodes the record: the inverse of `encode`.

    Raises:
        ValueError: The record is longer than `MAX_BYTES`, or is not a JSON object of strings.
    """
    _check_size(record)
    try:
        metadata = json.loads(record)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{RECORD} is not JSON") from error
    values = metadata.values() if isinstance(metadata, dict) else [None]
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{RECORD} is not an object of strings")
    return metadata


def _check_size(record: bytes) -> None:
    if len(record) > MAX_BYTES:
        raise ValueError(f"the metadata have {len(record)} bytes, expected at most {MAX_BYTES}")
