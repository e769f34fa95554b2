"""Checks of a small item of a checkpoint, which tensorstore writes here without Orbax."""

import json
import os
import sys

import pytest
import tensorstore

from maskrcnn_jax.runs import stored_files

NUM_ARRAYS = 20


def opened(item):
    base = {"driver": "file", "path": f"{item}/"}
    spec = {"driver": "ocdbt", "base": base, "config": {"max_inline_value_bytes": 16}}
    return tensorstore.KvStore.open(spec).result()


@pytest.fixture
def item(tmp_path):
    """Arrays whose values are in one file, and the index in another."""
    with tensorstore.Transaction() as transaction:
        database = opened(tmp_path).with_transaction(transaction)
        for i in range(NUM_ARRAYS):
            database[f"a{i}/.zarray"] = json.dumps({"shape": [5, i]})
            database[f"a{i}/0.0"] = bytes(100)
    opened(tmp_path)["a0/0.0"] = bytes(3)
    (tmp_path / "_METADATA").write_text("{}")
    return tmp_path


def with_values(item):
    return max((item / "d").iterdir(), key=lambda path: path.stat().st_size)


def test_saved_shapes(item):
    expected = {f"a{i}": (5, i) for i in range(NUM_ARRAYS)}
    assert stored_files.saved_shapes(item) == expected
    stored_files.check(item)


@pytest.mark.parametrize("check", [stored_files.saved_shapes, stored_files.check])
def test_files_that_are_short_or_missing(item, check):
    path = with_values(item)
    os.truncate(path, 1000)
    with pytest.raises(ValueError, match="OUT_OF_RANGE|has 1000 bytes of"):
        check(item)
    path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="has no data of a|No such file"):
        check(item)


@pytest.mark.parametrize("check", [stored_files.saved_shapes, stored_files.check])
def test_an_array_without_data(item, check):
    del opened(item)["a3/0.0"]
    with pytest.raises(ValueError, match="has no data of .*a3"):
        check(item)


def test_the_check_of_a_save_keeps_no_memory(item):
    stored_files.saved_shapes(item)
    before, num_calls = sys.getallocatedblocks(), 10
    for _ in range(num_calls):
        stored_files.saved_shapes(item)
    assert sys.getallocatedblocks() - before < num_calls * NUM_ARRAYS
