"""PyTorch's format before version 1.6: pickles, and the storages behind them."""

import struct

import numpy as np
import pytest

from maskrcnn_jax.weights import pytorch_legacy
from tests.weights import pytorch_bytes as build
from tests.weights.hostile import FOUR, assert_refused, tensor

COUNT = np.arange(12, dtype=np.float32)


def small(size=4):
    """The pickle of a tensor, as the legacy format declares its storage."""
    where = build.storage("0", size, "FloatStorage", b"N")
    return build.mapping({"x": build.tensor(where, (4,), (1,))})


@pytest.fixture
def read(opened):
    """Reads the content of a file."""
    return lambda content: pytorch_legacy.read(opened(content))


def test_a_legacy_storage_of_negative_size_that_no_tensor_uses(tmp_path):
    content = build.mapping({"unused": build.storage("0", -4, "FloatStorage", b"N"), "model": b"}"})
    file = build.legacy_file(content, {"0": FOUR}).replace(
        struct.pack("<q", 4), struct.pack("<q", -4)
    )
    assert_refused(tmp_path, file, "not a storage")


def test_a_legacy_file_of_another_protocol(tmp_path):
    file = build.legacy_file(tensor(), {"0": FOUR}).replace(
        build.PROTOCOL, build.protocol2(build.integer(1002))
    )
    assert_refused(tmp_path, file, "protocol 1001")


def test_storages_that_nothing_wanted_uses_are_skipped(read):
    def tensor(key, size):
        return build.tensor(build.storage(key, size, "FloatStorage", b"N"), (size,), (1,))

    content = build.mapping(
        {
            "other": build.mapping({"m": tensor("a", 3)}),
            "model": build.mapping({"x": tensor("b", 2)}),
        }
    )
    arrays, _ = read(build.legacy_file(content, {"a": COUNT[:3], "b": COUNT[7:9]}))
    np.testing.assert_array_equal(arrays["x"], [7, 8])


def test_the_parts_of_a_file(read):
    content = build.legacy_file(small(), {"0": FOUR})
    assert pytorch_legacy.START in content[:32]
    arrays, text = read(content)
    np.testing.assert_array_equal(arrays["x"], FOUR)
    assert text == {}
    with pytest.raises(ValueError, match="is a pickle without PyTorch's magic number"):
        read(build.PROTOCOL + content)


@pytest.mark.parametrize(
    "left, message",
    [(15, "storage '0' has 16 bytes, 15 are left"), (-3, "is cut short before storage '0'")],
)
def test_a_file_that_is_cut_short(read, left, message):
    content = build.legacy_file(small(), {"0": FOUR})
    with pytest.raises(ValueError, match=message):
        read(content[: left - 16])


def test_the_number_before_a_storage_has_to_be_the_declared_one(read):
    content = build.legacy_file(small(), {"0": COUNT[:5]})
    with pytest.raises(ValueError, match="storage '0' has 5 elements where its tensors expect 4"):
        read(content)
