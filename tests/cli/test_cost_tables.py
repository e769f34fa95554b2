"""The tables of a predicted cost, and its figures for JSON."""

import io
import json

import pytest

from maskrcnn_jax.cli import cost_tables
from maskrcnn_jax.cli.console import Console
from tests.cli.conftest import cost_on

TPU, GPU = "TPU v5 lite", "NVIDIA H100 80GB HBM3"


def shown(priced):
    """The words of each line that the tables print."""
    stream = io.StringIO()
    cost_tables.show(priced, Console(file=stream, width=140))
    return [line.replace("\u2502", " ").split() for line in stream.getvalue().splitlines()]


def test_a_stage_and_a_kind_have_time_share_work_and_traffic():
    found = shown(cost_on(TPU))
    assert ["rpn", "6.000", "75.0%", "9.000", "400.0", "1.000"] in found
    assert ["layout", "2.000", "25.0%", "2.000", "0.0", "0.000"] in found
    # Copies beside the schedule take no time, so they have no row.
    assert not any(row[:2] == ["copy", "beside"] for row in found)
    assert ["fpn", "2.000", "25.0%", "2", "0.0", "0.000"] in shown(cost_on(GPU))


def test_the_dearest_instruction_is_first():
    rows = [row for row in shown(cost_on(TPU)) if row and row[0] in ("fusion.1", "copy.7")]
    assert [row[:2] for row in rows] == [["fusion.1", "6.000"], ["copy.7", "bf16[8,4]"]]
    assert "34%" in rows[0] and rows[1][2:4] == ["2.000", "2"]  # Two turns of 1 ms.
    assert rows[1][-1] == "modules/fpn.py:65"
    assert any(row[:4] == ["fusion.1", "6.000", "1", "400.0"] for row in shown(cost_on(GPU)))


def test_the_summary_compares_with_the_chip():
    text = "\n".join(" ".join(row) for row in shown(cost_on(TPU)))
    for line in (
        "predicted 8.00 ms per step",
        "matrix units 25.4% of 197 TFLOP/s",
        "memory traffic 1.00 GB, 1.22 ms at the published bandwidth",
        "compiler's estimate 11.00 ms, uncorrected",
        "copies beside the schedule 0.00 GB",
        "priced by roofline 8.00 ms",
        "assumed: 8 turns of the loop at ops/nms.py:172",
    ):
        assert line in text
    text = "\n".join(" ".join(row) for row in shown(cost_on(GPU)))
    assert "launches by the host 21, 4 of them CUDA graphs with 55 kernels" in text
    assert "kernels 4, 8.00 ms" in text and "questions of the host 2" in text


@pytest.mark.parametrize("kind, told", [(TPU, "libtpu's schedule"), (GPU, "a roofline over")])
def test_every_table_says_what_it_is_not(kind, told):
    not_measured, how = cost_tables.notes(cost_on(kind))
    assert not_measured.startswith("Not measured: no chip ran this.") and told in how


def test_constants_that_nobody_checked_are_told():
    assert any("constants not checked" in note for note in cost_tables.notes(cost_on("TPU v4")))


def test_the_figures_are_values_of_json():
    numbers = json.loads(json.dumps(cost_tables.to_dict(cost_on(TPU))))
    assert numbers["seconds"] == 8e-3 and numbers["launches"] is None
    assert list(numbers["stages"]) == ["rpn", "fpn"]  # The dearest first.
    assert numbers["stages"]["rpn"]["estimate"] == 9e-3
    assert numbers["kinds"]["product"]["flops"] == 4e11
    assert [x["name"] for x in numbers["instructions"]] == ["fusion.1", "copy.7", "copy-start"]
    assert numbers["instructions"][0]["price"]["traffic"] == 1e9
    assert numbers["assumed_loops"] == [{"source": "ops/nms.py:172", "turns": 8}]
    assert cost_tables.to_dict(cost_on(GPU))["launches"]["launches"] == 21
