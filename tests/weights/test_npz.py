"""NumPy archives: what NumPy writes is read, and nothing but arrays of numbers."""

import io
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from maskrcnn_jax.weights import files, npz, zip_records
from tests.weights import pytorch_bytes as build
from tests.weights.hostile import assert_refused, tensor


def test_archives_that_unpack_to_much(tmp_path):
    zeros = bytes(70 << 20)
    bomb = build.zip_file(tensor(num_elements=70 << 18), {"0": zeros}, compressed=True)
    assert len(bomb) < 1 << 20
    assert_refused(tmp_path, bomb, "compressed")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (70 << 18,)}
    )
    bomb = build.archive({"x.npy": header.getvalue() + zeros}, zipfile.ZIP_DEFLATED)
    assert_refused(tmp_path, bomb, "unpack to 734")


@pytest.mark.parametrize(
    "header", ["-" * 9000 + "1", "(" * 9000, "[\n" * 9, "{'descr': '|O'}", "f()", "\0", ""]
)
def test_headers_of_arrays_that_are_no_literals(tmp_path, header):
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    archive = build.archive({"x.npy": content})
    assert_refused(tmp_path, archive, "is not a NumPy array")
    with pytest.raises(ValueError) as error:
        files.read(tmp_path / "hostile.pth")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("shape", [(True,), (-1, -1), (2,)])
def test_headers_of_arrays_with_sizes_that_are_none(tmp_path, shape):
    header = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    archive = build.archive({"x.npy": header.getvalue() + b"\0" * 4})
    assert_refused(tmp_path, archive, r"has 4 bytes, expected \(")


def test_archives_of_numpy(tmp_path):
    arrays = {"zeros": np.zeros(100_000), "f": np.asfortranarray(np.eye(3, 2)), "a/b": np.arange(3)}
    big_endian = {"big": np.arange(5, dtype=">f4")}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "w.npz", **arrays, **big_endian)
        loaded, metadata = files.read(tmp_path / "w.npz")
        assert list(loaded) == [*arrays, "big"] and metadata == {}
        np.testing.assert_array_equal(loaded["big"], np.arange(5, dtype=np.float32), strict=True)
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_numpy_reads_ours(tmp_path):
    files.write(tmp_path / "w.npz", {"a/b": np.arange(3)}, {"key": "value"})
    with np.load(tmp_path / "w.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["a/b"], np.arange(3))


@pytest.mark.parametrize(
    "array",
    [np.array([{"not": "an array"}], dtype=object), np.array(["text"]), np.zeros(2, "i4,i4")],
)
def test_archives_of_other_things_than_numbers_are_refused(tmp_path, array):
    path = tmp_path / "w.npz"
    np.savez(path, a=array)
    with pytest.raises(ValueError, match="w.npz"):
        files.read(path)


@pytest.mark.parametrize(
    "shape",
    [b"(999999999999,), }", b"(3,), }           ", b"(-4, -1), }       ", b"(4, ), 'x': 1}    "],
)
def test_a_header_that_declares_another_shape_takes_no_memory(tmp_path, shape):
    np.savez(tmp_path / "good.npz", a=np.zeros(4))
    with zipfile.ZipFile(tmp_path / "good.npz") as archive:
        record = archive.read("a.npy")
    place = record.index(b"(4,), }")
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("a.npy", record[:place] + shape + record[place + len(shape) :])
    with pytest.raises(ValueError, match="bad.npz.*'a.npy'"):
        files.read(tmp_path / "bad.npz")


def test_bfloat16_is_a_raw_pair_of_bytes(opened):
    array, file = np.arange(4).astype(ml_dtypes.bfloat16), opened()
    npz.write(file, {"x": array}, {"key": "value"})
    found, text = npz.read(file, zip_records.directory(file))
    np.testing.assert_array_equal(found["x"], array, strict=True)
    assert text == {"key": "value"}
    file.seek(0)
    assert np.load(file)["x"].dtype == npz.RAW_BFLOAT16


def test_other_records_are_refused(opened):
    for content, message in (
        (build.archive({}), "is a zip archive without arrays"),
        (build.archive({"notes.txt": b"text"}), "with the record 'notes.txt', expected PyTorch's"),
    ):
        file = opened(content)
        with pytest.raises(ValueError, match=message):
            npz.read(file, zip_records.directory(file))
