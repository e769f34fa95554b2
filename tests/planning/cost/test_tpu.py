"""Prices on a TPU v5e, of recorded programs and of single instructions written by hand."""

import json
from pathlib import Path

import pytest

from maskrcnn_jax.planning import chips, hlo
from maskrcnn_jax.planning.cost import tpu

TEXTS = Path(__file__).parent / "texts"
V5E = chips.TPUS["TPU v5 lite"]
SIMULATED = [p for p in sorted(TEXTS.glob("tpu_*.json")) if "simulated_cycles" in p.read_text()]


def numbers_of(name):
    return json.loads((TEXTS / f"tpu_{name}.json").read_text())


def read(name, bundles=True):
    program = hlo.parse((TEXTS / f"tpu_{name}.txt").read_text())
    return tpu.read(program, V5E, numbers_of(name)["bundles"] if bundles else {})


@pytest.mark.parametrize("path", SIMULATED, ids=lambda path: path.stem)
def test_prices_are_near_what_libtpu_simulates(path):
    """Its static profile simulates bundles and matrix units, but copies faster than HBM can."""
    items = {item.name: item.price for item in read(path.stem.removeprefix("tpu_")).items}
    simulated = numbers_of(path.stem.removeprefix("tpu_"))["simulated_cycles"]
    for name, cycles in simulated.items():
        price = items[name]
        if cycles == 0 or price.basis != "bundles":  # Not simulated, or without tiles.
            continue
        in_hbm = price.traffic / (tpu.BANDWIDTH_SHARE * V5E.bandwidth)
        ratio = price.seconds * V5E.hertz / cycles
        lowest = 0.9 if price.kind == "product" else 0.7
        assert lowest < ratio and (ratio < 1.1 or price.seconds == in_hbm), (name, ratio)


def test_enough_instructions_are_simulated():
    assert len(SIMULATED) >= 8


@pytest.mark.parametrize(
    "name, operations, more",
    [
        ("product", 2 * 4096 * 1024 * 1024, 0),
        ("exact_product", 6 * 2 * 2048 * 512 * 512, 0),  # Six passes.
        ("repeated", 5 * 2 * 512**3, 0),
        ("convolution", 2 * (3 * 48 - 2) ** 2 * 128 * 128, 0.2),  # In windows that overlap.
        ("kernel_gradient", 2 * (3 * 48 - 2) ** 2 * 128 * 128, 0),
    ],
)
def test_operations(name, operations, more):
    found = sum(item.turns * item.price.flops for item in read(name).items)
    assert operations * 0.999 < found < operations * (1.001 + more)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("product", "product"),
        ("add", "elementwise"),
        ("transpose", "layout"),
        ("largest", "reduction"),
        ("pick", "gather"),
        ("add_at", "scatter"),
        ("order", "sort"),
    ],
)
def test_kinds(name, kind):
    assert kind in {item.price.kind for item in read(name).items}


def test_turns_of_loops():
    assert read("repeated").loops == []
    (loop,) = read("until_small").loops
    assert loop.turns == tpu.ASSUMED_TURNS


def test_the_stages_and_lines_of_the_box_head():
    items = read("box_head").items
    assert {item.stage for item in items} == {"box_head", "box_head, backward"}
    product = max(items, key=lambda item: item.price.flops)
    assert product.source.startswith("modules/box_head.py:")


def test_without_bundles_the_estimate_serves():
    assert {item.price.basis for item in read("add").items if item.seconds} == {"bundles"}
    (item,) = (item for item in read("add", bundles=False).items if item.seconds)
    assert item.price.basis == "compiler's estimate"


ENTRY = """
ENTRY %main (a: bf16[8]) -> bf16[8] {{
  %a = bf16[{a}]{{1,0:T(8,128)(2,1){space}}} parameter(0)
  %b = bf16[{b}]{{1,0:T(8,128)(2,1){space}}} parameter(1)
  ROOT %x = bf16[{result}]{{1,0:T(8,128)(2,1){space}}} convolution(%a, %b), dim_labels=bf_io->bf
}}
"""


def cycles(a, b, result, space):
    text = ENTRY.format(a=a, b=b, result=result, space=space)
    (item,) = tpu.read(hlo.parse(text), V5E, {}).items
    return item.seconds * V5E.hertz, item.price


def test_products_are_filled_up_to_the_size_of_the_matrix_units():
    """A depth of 200 takes 256 rows of the units, and 300 columns take 384."""
    found, price = cycles("100,200", "200,300", "100,300", "S(1)")
    assert found == pytest.approx(256 * 100 * 384 / 65536 / tpu.MATRIX_SHARE)
    assert price.flops == 2 * 100 * 200 * 300 and price.traffic == 0


def test_few_rows_take_as_long_as_to_load_the_matrix():
    found, _ = cycles("8,4096", "4096,4096", "8,4096", "S(1)")
    assert found == pytest.approx(4096 * 40 * 4096 / 65536 / tpu.MATRIX_SHARE)


def test_bytes_in_hbm_with_their_padding():
    """104 rows of 256, 200 of 384 and 104 of 384 numbers lie there, two bytes each."""
    found, price = cycles("100,200", "200,300", "100,300", "")
    size = 2 * (104 * 256 + 200 * 384 + 104 * 384)
    assert price.traffic == size
    assert found == pytest.approx(size / (0.8 * 819e9) * 1.5e9)


def test_copies_beside_the_schedule_take_no_time():
    text = """
ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  ROOT %done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%start)
}
"""
    items = tpu.read(hlo.parse(text), V5E, {}).items
    assert [item.seconds for item in items] == [0, 0]
    assert sum(item.price.overlapped for item in items) == 4096
