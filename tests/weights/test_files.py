"""Weight files are read back as written; error messages name the file and every error."""

import hashlib
import json
import os
import zipfile

import ml_dtypes
import numpy as np
import pytest

from maskrcnn_jax.weights import files

EVERYWHERE = (
    *(np.float64, np.float32, np.float16, ml_dtypes.bfloat16),
    *(np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_),
)


@pytest.fixture
def arrays():
    matrix = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    dtypes = {
        f"dtypes/{np.dtype(dtype).name}": np.array([[0, 1, 2], [1, 0, 3]]).astype(dtype)
        for dtype in EVERYWHERE
    }
    orders = {
        "transposed": matrix.T,
        "fortran": np.asfortranarray(matrix),
        "part": matrix[::2, 1:],
        "matrix": matrix,
    }
    shapes = {
        "zero.dimensional": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "b\u00e9ta": np.ones(1),
    }
    return dtypes | orders | shapes | {"big endian": np.arange(3, dtype=">i4")}


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_round_trip(tmp_path, arrays, suffix):
    path = tmp_path / f"w{suffix}"
    metadata = {"categories": '{"1": "n\u00f6tt"}', "": "\n\x00"}
    files.write(path, arrays, metadata)
    loaded = files.read(path)
    assert loaded.metadata == metadata
    assert loaded.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded.arrays[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert loaded.arrays[name].shape == array.shape
    if suffix != ".safetensors":  # The library sorts arrays when it writes them.
        assert list(loaded.arrays) == list(arrays)


def test_a_safetensors_header_whose_length_begins_like_a_pickle(tmp_path):
    """The format pads headers to a multiple of 8 bytes: one length in 32 has the last byte 0x80."""
    for size in range(32):
        files.write(
            tmp_path / "w.safetensors", {"a": np.zeros(2, np.float32)}, {"note": "x" * 8 * size}
        )
        assert list(files.read(tmp_path / "w.safetensors").arrays) == ["a"]


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_nothing_is_a_file_too_and_the_suffix_does_not_matter_for_reading(tmp_path, suffix):
    files.write(tmp_path / f"w{suffix}", {})
    (tmp_path / f"w{suffix}").rename(tmp_path / "w.weights")
    assert files.read(str(tmp_path / "w.weights")) == ({}, {})


def test_unsigned_integers_where_the_format_has_them(tmp_path):
    array = np.array([1, 65_535], np.uint16)
    for suffix in (".npz", ".safetensors"):
        files.write(tmp_path / f"w{suffix}", {"x": array})
        np.testing.assert_array_equal(
            files.read(tmp_path / f"w{suffix}").arrays["x"], array, strict=True
        )


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"w{suffix}"
    files.write(path, {"x": np.zeros(2)})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OSError, match="no space"):
        files.write(path, {"x": np.ones(2)})
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_a_new_file_is_readable_for_whom_other_files_are(tmp_path):
    (tmp_path / "other").touch()
    files.write(tmp_path / "w.pth", {})
    assert (tmp_path / "w.pth").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"w.h5 .*\.npz, \.pth, \.safetensors"):
        files.write(tmp_path / "w.h5", {})
    with pytest.raises(ValueError, match="x is an array of object"):
        files.write(tmp_path / "w.npz", {"x": np.array([None])})
    with pytest.raises(ValueError, match="metadata"):
        files.write(tmp_path / "w.npz", {}, {"epoch": "x" * (1 << 22)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is a PNG"),
        (b"<!DOCTYPE html><html>Not found</html>", "is an HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"Not found", "begins with b'Not found'"),
        (b'{"error": "not found"}', "begins with"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04 truncated", "cut short"),
        (b"PK\x05\x06" + bytes(18), "without arrays"),
        (b"\x80\x02}.", "a pickle, expected arrays by name"),
        (b"\x10\0\0\0\0\0\0\0{}", "safetensors"),
        (b'\x0a\0\0\0\0\0\0\0{"x":"yz"}', "safetensors"),
        (bytes(1000), "begins with"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, content, found):
    path = tmp_path / "w.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"w.npz.*{found}"):
        files.read(path)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.npz"):
        files.read(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="directory"):
        files.read(tmp_path)
    with pytest.raises(ValueError, match="device"):
        files.read(os.devnull)


@pytest.mark.parametrize(
    "kind, found", [("C64", "complex64"), ("F8_E4M3", "float8"), ("I99", "I99")]
)
def test_safetensors_of_other_numbers_are_refused(tmp_path, kind, found):
    size = 8 if kind == "C64" else 1
    header = json.dumps({"x": {"dtype": kind, "shape": [1], "data_offsets": [0, size]}}).encode()
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(ValueError, match=f"w cannot be read as weights.*{found}"):
        files.read(tmp_path / "w")


@pytest.mark.parametrize("record", [b"[]", b'{"a": 1}', b"{", b"[" * 100_000, b"\xff"])
@pytest.mark.parametrize(
    "suffix, name", [(".npz", "maskrcnn_jax.json"), (".pth", "archive/maskrcnn_jax.json")]
)
def test_metadata_that_are_not_text_by_key_are_refused(tmp_path, suffix, name, record):
    path, bad = tmp_path / f"w{suffix}", tmp_path / f"bad{suffix}"
    files.write(path, {"x": np.ones(2)})
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bad, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, record if entry == name else source.read(entry))
    with pytest.raises(ValueError, match=f"bad{suffix}.*maskrcnn_jax.json"):
        files.read(bad)


def test_sha256(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert files.sha256(tmp_path / "w") == hashlib.sha256(b"abc").hexdigest()
    assert files.sha256(tmp_path / "w").startswith("ba7816bf")
