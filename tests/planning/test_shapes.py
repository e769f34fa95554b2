"""Bytes of HLO shapes, counted by hand."""

import pytest

from maskrcnn_jax.planning.shapes import HBM, VMEM, arrays, num_bytes


@pytest.mark.parametrize(
    "shape, size",
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[5]{0}", 10),
        ("pred[]", 1),
        ("(f32[2]{0}, (s8[3]{0}, u32[]))", 8 + 3 + 4),
        ("f32[8,128]{1,0:T(8,128)}", 4096),
        ("f32[9,4]{1,0:T(8,128)}", 2 * 4096),  # 16 rows of 128 lanes.
        ("f32[9,4]{0,1:T(4,128)}", 4 * 128 * 4),  # The other axis is minor.
        ("bf16[3,10,100]{2,1,0:T(8,128)(2,1)}", 3 * 16 * 128 * 2),
        ("f32[<=8,128]{1,0}", 4096),  # At most so many rows.
        ("token[]", 0),
    ],
)
def test_bytes_with_padding(shape, size):
    assert num_bytes(shape) == size


def test_memory_spaces_are_apart():
    shape = "(f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)})"
    assert num_bytes(shape, VMEM) == num_bytes(shape, HBM) == 4096


def test_arrays():
    (array,) = arrays("bf16[2,3]{1,0:T(8,128)(2,1)}")
    assert (array.dtype, array.bits, array.sides, array.elements) == ("bf16", 16, (2, 3), 6)
    assert array.logical_bytes == 12 and array.bytes == 8 * 128 * 2
