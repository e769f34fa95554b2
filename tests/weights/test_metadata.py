"""Metadata in a weight file: text by key in one record."""

import pytest

from maskrcnn_jax.weights import metadata


def test_text_comes_back():
    text = {"a": "n\u00f6tt\n\x00", "": ""}
    record = metadata.encode(text)
    assert record.isascii() and metadata.decode(record) == text
    assert metadata.decode(metadata.encode({})) == {}


@pytest.mark.parametrize(
    "record, message",
    [
        (b"[]", "is not an object of strings"),
        (b'{"a": 1}', "is not an object of strings"),
        (b"null", "is not an object of strings"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "is not JSON"),
    ],
)
def test_anything_else_is_refused(record, message):
    with pytest.raises(ValueError, match=f"maskrcnn_jax.json {message}"):
        metadata.decode(record)


def test_long_metadata_are_neither_written_nor_read(monkeypatch):
    monkeypatch.setattr(metadata, "MAX_BYTES", 20)
    assert len(metadata.encode({"a": "x" * 11})) == 20
    for function, argument in (
        (metadata.encode, {"a": "x" * 12}),
        (metadata.decode, b"{" + b" " * 20),
    ):
        with pytest.raises(ValueError, match="have 21 bytes, expected at most 20"):
            function(argument)
