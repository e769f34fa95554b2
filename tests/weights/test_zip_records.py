"""Records of a zip archive: the directory is compared with the file before anything is read."""

import zipfile

import numpy as np
import pytest

from maskrcnn_jax.weights import files, zip_records
from tests.weights import pytorch_bytes as build
from tests.weights.hostile import FOUR, assert_refused, tensor


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_records_are_read_where_they_lie(opened, kind):
    contents = {"b": b"x" * 1000, "a/\u00e9": b"", "c": bytes(range(256))}
    file = opened(build.archive(contents, kind))
    records = zip_records.directory(file)
    assert list(records) == list(contents)
    for name, expected in contents.items():
        record = records[name]
        assert record.size == len(expected) and record.deflated == (kind == zipfile.ZIP_DEFLATED)
        assert zip_records.read(file, record).tobytes() == expected


@pytest.mark.parametrize("size", [0, 10, 60, -1])
def test_an_archive_that_is_cut_short(opened, size):
    content = build.archive({"a": b"content"})
    with pytest.raises(ValueError, match="the zip archive is damaged or cut short"):
        zip_records.directory(opened(content[:size]))


def test_records_that_changed_after_the_directory_was_read(opened):
    content = build.archive({"a": b"content"})
    record = zip_records.directory(opened(content))["a"]
    with pytest.raises(ValueError, match="record 'a' is damaged: its checksum is wrong"):
        zip_records.read(opened(content.replace(b"content", b"contend")), record)
    with pytest.raises(ValueError, match="record 'a' is cut short"):
        zip_records.read(opened(content[: record.offset + 3]), record)


def test_a_directory_of_the_archive_that_lies(tmp_path):
    good = build.zip_file(tensor(), {"0": FOUR.tobytes(), "1": bytes(16)})
    (tmp_path / "good.pth").write_bytes(good)
    np.testing.assert_array_equal(files.read(tmp_path / "good.pth").arrays["x"], FOUR)
    first, second = good.index(b"model/data/0") - 30, good.index(b"model/data/1") - 30
    for fields, match in (
        ({"size": 1 << 31, "stored_size": 1 << 31}, "goes beyond the file"),
        ({"size": 1 << 31}, "two sizes"),
        ({"stored_size": 8}, "two sizes"),
        ({"size": 100, "stored_size": 100}, "overlaps"),
        ({"start": second}, "header"),
        ({"start": first + 1}, "header"),
        ({"start": len(good)}, "outside"),
        ({"method": zipfile.ZIP_DEFLATED}, "header"),
        ({"method": zipfile.ZIP_LZMA}, "header"),
        ({"crc": 0}, "checksum"),
    ):
        assert_refused(tmp_path, build.patched_directory(good, "model/data/0", **fields), match)


def test_a_record_inside_another_one(tmp_path):
    outer = build.archive({"model/data/1": FOUR.tobytes()})[:58]
    content = build.zip_file(
        tensor(num_elements=len(outer) // 4), {"0": outer, "1": FOUR.tobytes()}
    )
    start = content.index(outer)
    assert_refused(
        tmp_path, build.patched_directory(content, "model/data/1", start=start), "overlaps"
    )


@pytest.mark.parametrize("size", [0, 3, 1000, 1 << 25])
def test_compressed_records_that_unpack_to_another_size(tmp_path, size):
    np.savez_compressed(tmp_path / "good.npz", x=np.arange(100))
    good = (tmp_path / "good.npz").read_bytes()
    assert_refused(tmp_path, build.patched_directory(good, "x.npy", size=size), "declares")


def test_encrypted_records(tmp_path):
    content = bytearray(build.zip_file(tensor(), {"0": FOUR.tobytes()}))
    content[6] |= 1  # The flags of the first record.
    assert_refused(tmp_path, bytes(content), "encrypted")


def test_records_of_one_name(tmp_path):
    content = build.zip_file(tensor(), {"0": FOUR.tobytes(), "1": bytes(16)})
    assert_refused(tmp_path, content.replace(b"model/data/1", b"model/data/0"), "one name")
