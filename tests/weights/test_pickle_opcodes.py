"""Opcodes of plain values: Python's unpickler reads them."""

import pickle
from collections import OrderedDict

import pytest

from maskrcnn_jax.weights import pickle_opcodes


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 2**31 - 1, -(2**31), 2**31, -(2**63), b"", b"\xff" * 255),
        *("", "n\u00f6tt", (), (1, ("a", None)), {}, {"a": {"b": (1,)}, 2: True}),
    ],
)
def test_python_reads_what_is_written(value):
    found = pickle.loads(b"\x80\x03" + pickle_opcodes.value(value) + b".")
    assert found == value and type(found) is type(value)


def test_names_and_parts_that_are_joined():
    ordered = pickle_opcodes.name("collections", "OrderedDict")
    assert pickle.loads(b"\x80\x02" + ordered + b".") is OrderedDict
    text = pickle_opcodes.value("a")
    assert pickle.loads(b"\x80\x02(" + text + text + b"t.") == ("a", "a")


@pytest.mark.parametrize("value", [1.5, [1], {1}, object])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="expected a plain value, got"):
        pickle_opcodes.value(value)
