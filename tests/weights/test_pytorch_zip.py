"""PyTorch's zip format: the folder, the byte order and the places of the storages."""

import numpy as np
import pytest

from maskrcnn_jax.weights import files, pytorch_zip, zip_records
from tests.weights import pytorch_bytes as build
from tests.weights.hostile import FOUR, assert_refused, tensor


def test_archives_of_pytorch_that_are_no_state_dict(tmp_path):
    def refused(match, **records):
        assert_refused(tmp_path, build.zip_file(tensor(), {"0": FOUR.tobytes()}, **records), match)

    refused("TorchScript", **{"constants.pkl": b"\x80\x02)."})
    refused("byte order is b'middle'", byteorder=b"middle")
    refused("2 records", **{"other/data.pkl": b"\x80\x02}."})


def test_what_pytorch_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="x is uint32"):
        files.write(tmp_path / "w.pth", {"x": np.zeros(2, np.uint32)})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_names_its_classes(tmp_path):
    state = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7)}
    files.write(tmp_path / "w.pth", state, classes=("cat", "dog \u00e9"))
    found = files.read(tmp_path / "w.pth")
    assert found.metadata == {"checkpoint.classes": '["cat", "dog \\u00e9"]'}
    assert found.arrays.keys() == state.keys()
    np.testing.assert_array_equal(found.arrays["a.weight"], state["a.weight"])


def test_storages_begin_at_multiples_of_64_bytes(opened):
    """A program can map them into memory."""
    file = opened()
    pytorch_zip.write(file, {"a": np.ones(3), "b": np.ones((2, 5), np.float32)}, {"long": "x" * 77})
    records = zip_records.directory(file)
    assert all(record.offset % 64 == 0 for record in records.values())
    arrays, text = pytorch_zip.read(file, records)
    assert text == {"long": "x" * 77} and arrays["b"].shape == (2, 5)


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_byte_order_of_the_file_counts(opened, order):
    content = FOUR.astype("<f4" if order == "little" else ">f4").tobytes()
    more = {"byteorder": order.encode()} if order == "big" else {}  # Old files store none.
    file = opened(build.zip_file(tensor(), {"0": content}, **more))
    arrays, _ = pytorch_zip.read(file, zip_records.directory(file))
    np.testing.assert_array_equal(arrays["x"], FOUR)


def test_an_archive_without_a_pickle_is_none_of_pytorch(opened):
    file = opened(build.archive({"model/data/0": b""}))
    with pytest.raises(ValueError, match=r"has 0 records .../data.pkl, expected one"):
        pytorch_zip.read(file, zip_records.directory(file))
