"""Prices of single instructions on an H100, written by hand."""

import pytest

from maskrcnn_jax.planning import chips, hlo
from maskrcnn_jax.planning.cost import gpu

H100 = chips.GPUS["NVIDIA H100 80GB HBM3"]

ENTRY = """
ENTRY %main (a: {dtype}[8]) -> {dtype}[8] {{
  %a = {dtype}[{a}]{{1,0}} parameter(0)
  %b = {dtype}[{b}]{{1,0}} parameter(1)
  ROOT %x = ({dtype}[{result}]{{1,0}}, s8[99999999]{{0}}) custom-call(%a, %b), \
custom_call_target="__cublas$lt$matmul", backend_config={{"gemm_backend_config":{{\
"dot_dimension_numbers":{{"lhs_contracting_dimensions":["1"]}},"precision_config":{{\
"operand_precision":["{precision}","{precision}"]}}}}}}
}}
"""


def seconds(a, b, result, dtype="bf16", precision="DEFAULT"):
    text = ENTRY.format(a=a, b=b, result=result, dtype=dtype, precision=precision)
    (item,) = gpu.read(hlo.parse(text), H100, 1.0).items
    return item.seconds


def test_a_product_that_fills_all_multiprocessors():
    """264 tiles of 128x128 are two rounds of 132."""
    found = seconds("1536,4096", "4096,2816", "1536,2816")
    assert found == pytest.approx(2 * 1536 * 4096 * 2816 / H100.product_rate)


def test_the_last_round_takes_as_long_as_a_full_one():
    """276 tiles take three rounds; those of the last column have one column of the result."""
    full = seconds("1536,4096", "4096,2816", "1536,2816")
    assert seconds("1536,4096", "4096,2817", "1536,2817") == pytest.approx(1.5 * full, rel=0.1)


def test_float32_is_slower():
    fast = seconds("1536,4096", "4096,2816", "1536,2816")
    for precision, times in (("DEFAULT", 2), ("HIGHEST", 12)):
        found = seconds("1536,4096", "4096,2816", "1536,2816", "f32", precision)
        assert found == pytest.approx(times * fast)


def test_bytes_limit_thin_products():
    """The working memory beside the result does not count."""
    size = 2 * (65536 * 64 + 64 * 64 + 65536 * 64)
    assert seconds("65536,64", "64,64", "65536,64") == pytest.approx(size / H100.copy_rate)


def test_a_kernel_takes_two_microseconds_at_least():
    assert seconds("8,8", "8,8", "8,8") == 2e-6
