"""The price of a step: sums over instructions, and what the host adds."""

import pytest

from maskrcnn_jax.planning import chips
from maskrcnn_jax.planning.cost import bundles, cost, tpu
from maskrcnn_jax.planning.cost.cost import Cost
from maskrcnn_jax.planning.cost.schedule import Item, Loop, Price
from tests.planning.cost import test_gpu_recorded

TPU = chips.CHIPS["TPU v5 lite"]


def test_groups_are_sums_over_turns():
    items = [
        Item("a", "", "fpn", "", 3.0, Price("product", 1.0, 2.0, 10.0, 7.0)),
        Item("b", "", "fpn", "", 1.0, Price("layout", 4.0)),
        Item("c", "", "rpn", "", 1.0, Price("product", 9.0)),
    ]
    rows = cost.group(items, lambda item: item.stage)
    assert list(rows) == ["rpn", "fpn"]  # The dearest first.
    # Without an estimate of the compiler the price stands in for it.
    assert rows["fpn"] == cost.Row(seconds=7.0, estimate=10.0, flops=30.0, traffic=21.0, runs=4.0)


def test_totals_count_every_turn():
    items = [
        Item("a", "", "fpn", "", 3.0, Price("product", 1e-3, 2e-3, 4e11, 7.0, 5.0)),
        Item("b", "", "rpn", "", 1.0, Price("layout", 4e-3)),
    ]
    priced = Cost(TPU, 8e-3, items, [], None)
    assert priced.busy == pytest.approx(7e-3)
    assert priced.estimate == pytest.approx(10e-3)  # The compiler gives none for "b".
    assert priced.total("traffic") == 21 and priced.total("overlapped") == 15
    assert priced.matrix_share == pytest.approx(12e11 / (8e-3 * TPU.peak))


def test_a_tpu_takes_the_time_of_its_instructions(monkeypatch):
    """Nothing asks the host there."""
    items, loops = [Item("a", "", "fpn", "", 3.0, Price("product", 1e-3))], [Loop("", 5)]
    monkeypatch.setattr(bundles, "read_dump", lambda dump, program: {})
    monkeypatch.setattr(tpu, "read", lambda program, chip, found: (items, loops))
    priced = cost.read(TPU, test_gpu_recorded.program_of("product"))
    assert priced == Cost(TPU, 3e-3, items, loops, None)


def test_the_host_waits_where_it_asks(tmp_path):
    thunks = (test_gpu_recorded.TEXTS / "gpu_until_small.thunks.txt").read_text()
    (tmp_path / "jit_f.thunk_sequence.txt").write_text(thunks)
    priced = cost.read(
        test_gpu_recorded.H100, test_gpu_recorded.program_of("until_small"), tmp_path
    )
    assert priced.launches == test_gpu_recorded.launches_of("until_small")
    on_host = cost.LAUNCH * priced.launches.launches
    assert priced.seconds == max(priced.busy, on_host) + 2 * cost.QUESTION
