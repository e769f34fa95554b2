"""Prices of recorded programs on an H100."""

from pathlib import Path

import pytest

from maskrcnn_jax.planning import chips, hlo
from maskrcnn_jax.planning.cost import gpu, launches

TEXTS = Path(__file__).parent / "texts"
H100 = chips.GPUS["NVIDIA H100 80GB HBM3"]


def program_of(name):
    return hlo.parse((TEXTS / f"gpu_{name}.txt").read_text())


def read(name):
    return gpu.read(program_of(name), H100, 1.0).items


def launches_of(name):
    return launches.read((TEXTS / f"gpu_{name}.thunks.txt").read_text(), program_of(name))


@pytest.mark.parametrize(
    "name, kind, operations",
    [
        ("product", "product", 2 * 4096 * 1024 * 1024),
        ("tall_product", "product", 2 * 67200 * 256 * 256),
        ("exact_product", "product", 2 * 2048 * 512 * 512),
        ("long_sum", "product", 2 * 67200 * 256 * 256),
        ("convolution", "convolution", 2 * 48 * 48 * 9 * 128 * 128),
        ("kernel_gradient", "convolution, by kernel", 2 * 48 * 48 * 9 * 128 * 128),
    ],
)
def test_operations(name, kind, operations):
    items = read(name)
    found = {item.price.kind: item.price.flops for item in items if item.price.flops}
    assert found == {kind: operations}


@pytest.mark.parametrize(
    "name, kind",
    [("transpose", "layout"), ("largest", "reduction"), ("add", "elementwise"), ("order", "sort")],
)
def test_kinds(name, kind):
    assert kind in {item.price.kind for item in read(name)}


def test_a_gather_moves_what_it_picks():
    """2000 rows of four numbers, read and written, and their indices."""
    (item,) = (item for item in read("pick") if item.price.kind == "gather")
    assert item.price.traffic == pytest.approx(2 * 2000 * 16 + 2000 * 4, rel=0.2)


def test_a_scatter_moves_what_it_adds():
    """The sums are read and written, the values and their indices read."""
    (item,) = (item for item in read("add_at") if item.price.kind == "scatter")
    assert item.price.traffic == pytest.approx(3 * 2000 * 1024 + 2000 * 4, rel=0.2)


def test_loops_of_known_length_ask_nothing():
    assert launches_of("repeated").questions == 0
    assert launches_of("until_small").questions == 2
    assert sum(item.price.flops * item.turns for item in read("repeated")) == 5 * 2 * 512**3


def test_the_stages_and_lines_of_the_box_head():
    items = read("box_head")
    assert {item.stage for item in items} == {"box_head", "box_head, backward"}
    product = max(items, key=lambda item: item.price.flops)
    assert product.source.startswith("modules/box_head.py:")


def test_sorts_take_several_kernels():
    program = program_of("order")
    once, thrice = (gpu.read(program, H100, count).items for count in (1.0, 3.0))
    is_sort = [item.price.kind == "sort" for item in once]
    ratios = [b.seconds / a.seconds for a, b in zip(once, thrice, strict=True)]
    assert any(is_sort) and ratios == [3 if sort else 1 for sort in is_sort]
