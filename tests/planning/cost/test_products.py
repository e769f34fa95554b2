"""Multiplications of products, counted by hand."""

import pytest

from maskrcnn_jax.planning import hlo
from maskrcnn_jax.planning.cost import products
from maskrcnn_jax.planning.cost.products import Product

ENTRY = """
ENTRY %main (a: {left}, b: {right}) -> {result} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %x = {result} {operation}
}}
"""


def read(left, right, result, operation):
    program = hlo.parse(ENTRY.format(left=left, right=right, result=result, operation=operation))
    x = program.instructions["x"]
    return products.read(x, program.operand_shapes(x)), products.passes(
        x, program.operand_shapes(x)
    )


def convolution(left, right, result, window, labels="b01f_01io->b01f", more=""):
    operation = f"convolution(%a, %b), window={{{window}}}, dim_labels={labels}{more}"
    return read(left, right, result, operation)[0]


def test_a_batch_of_matrix_products():
    operation = (
        "dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, "
        "rhs_contracting_dims={1}"
    )
    product, _ = read("f32[5,7,11]", "f32[5,11,13]", "f32[5,7,13]", operation)
    assert product == Product(groups=5, rows=7, columns=13, depth=11)
    assert product.multiplications == 5 * 7 * 11 * 13


def test_a_convolution_with_padding():
    """Of 3x3 taps at 4x4 positions 10x10 meet a cell: two rows and columns lack one."""
    product = convolution(
        "bf16[2,4,4,8]", "bf16[3,3,8,16]", "bf16[2,4,4,16]", "size=3x3 pad=1_1x1_1"
    )
    assert product.multiplications == pytest.approx(2 * 10 * 10 * 8 * 16)
    assert product.columns == 16 and product.rows == 2 * 16


def test_a_convolution_with_stride():
    product = convolution(
        "bf16[1,4,4,8]", "bf16[1,1,8,16]", "bf16[1,2,2,16]", "size=1x1 stride=2x2"
    )
    assert product == Product(groups=1, rows=4, columns=16, depth=8)


def test_the_holes_of_a_dilated_map_do_not_count():
    """The gradient of a 1x1 convolution of stride 2: three in four positions see a hole."""
    window = "size=1x1 pad=0_1x0_1 lhs_dilate=2x2"
    product = convolution("bf16[1,2,2,8]", "bf16[1,1,8,16]", "bf16[1,4,4,16]", window)
    assert product.multiplications == 4 * 8 * 16


def test_a_kernel_with_holes():
    """Two taps, two cells apart: both meet a cell at two of four positions along each axis."""
    window = "size=2x2 pad=0_0x0_0 rhs_dilate=2x2"
    product = convolution("bf16[1,4,4,8]", "bf16[2,2,8,16]", "bf16[1,2,2,16]", window)
    assert product.multiplications == 4 * 4 * 8 * 16


def test_a_batch_of_products_written_as_a_convolution():
    """Each of five positions of the result meets one cell of the map, by a tap of its own."""
    window = "size=5 stride=4 pad=0_0 lhs_dilate=5"
    product = convolution("f32[7,5,11]", "f32[5,11,13]", "f32[7,5,13]", window, "b0f_0io->b0f")
    assert product == Product(groups=5, rows=7, columns=13, depth=11)


def test_groups_of_the_batch():
    more = ", batch_group_count=4"
    product = convolution(
        "bf16[4,3,3,8]", "bf16[3,3,8,16]", "bf16[1,1,1,16]", "size=3x3", more=more
    )
    assert product.multiplications == 9 * 8 * 16 / 4


@pytest.mark.parametrize(
    "left, right, precision, passes",
    [
        ("f32", "f32", "highest,highest", 6),
        ("bf16", "f32", "highest,highest", 3),
        ("f32", "f32", "high,high", 3),
        ("f32", "f32", "default,default", 1),
        ("bf16", "bf16", "highest,highest", 1),
    ],
)
def test_passes_for_the_precision(left, right, precision, passes):
    operation = (
        f"dot(%a, %b), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}, "
        f"operand_precision={{{precision}}}"
    )
    assert read(f"{left}[2,3]", f"{right}[3,4]", "f32[2,4]", operation)[1] == passes
