"""Verdicts and tables of a comparison with invented numbers."""

import json
import math

import pytest

from maskrcnn_jax.parity import report
from maskrcnn_jax.parity.explanation import LeftOver
from maskrcnn_jax.parity.pairing import Pairing
from maskrcnn_jax.parity.records import Step

BOX = [0.0, 0.0, 9.0, 9.0]
NARROW = LeftOver("ours", 3, 0.0500001, BOX, (Step("score threshold 0.05", 1e-7, 1e-4),))
WIDE = LeftOver("torchvision", 3, 0.4, BOX, (Step("no reason", math.inf, 0.0),))


def comparison(num_pairs, left_overs, mask_share=0.0, num_differing=0):
    found = report.Comparison("each image alone")
    pairs, ours = [(i, i) for i in range(num_pairs)], list(range(len(left_overs)))
    pixels = (5000, num_differing) if mask_share is not None else ()
    found.add("a.jpg", Pairing(pairs, [], ours, 0.01, 2e-5, mask_share, *pixels), left_overs)
    return found


def whole(stage_error=1e-6, num_pairs=1000, left_overs=(), num_differing=5):
    stage = report.Stage("C2", "relative", 1e-5)
    stage.add(stage_error)
    comparisons = [comparison(num_pairs, list(left_overs), num_differing=num_differing)]
    return report.Report("random", "torchvision", [stage], comparisons, {"images": 1})


def test_all_is_well():
    assert whole().passed
    assert whole(left_overs=[NARROW]).passed
    assert "All within tolerance" in report.to_markdown(whole())


@pytest.mark.parametrize(
    "broken",
    [
        whole(stage_error=2e-5),
        whole(stage_error=math.nan),
        whole(left_overs=[WIDE]),
        whole(num_pairs=100, left_overs=[NARROW, NARROW]),
        whole(num_pairs=0),
        whole(num_differing=6),
    ],
    ids=["stage", "nan", "unexplained", "few", "nothing", "pixels"],
)
def test_what_falls_short(broken):
    assert not broken.passed
    assert "Falls short" in report.to_markdown(broken)


def test_a_nan_is_not_forgotten():
    stage = report.Stage("C2", "relative", 1e-5)
    stage.add(math.nan)
    stage.add(1e-6)
    assert not stage.passed


def test_a_stage_with_boxes_on_one_side():
    stage = report.Stage("proposals", "px", 1e-3)
    stage.add(1e-4, [NARROW])
    assert stage.passed and stage.left_over == 1
    stage.add(1e-4, [WIDE])
    assert not stage.passed and (stage.left_over, stage.unexplained) == (2, 1)


def test_share_counts_both_sides():
    assert comparison(999, [NARROW, NARROW]).share == 2 * 999 / 2000
    assert comparison(0, []).share == 1


def test_numbers_survive_json():
    values = report.to_dict(whole(left_overs=[NARROW, WIDE]))
    values = json.loads(json.dumps(values, allow_nan=False))
    assert values["passed"] is False
    first, second = values["comparisons"][0]["left_overs"]
    assert first["image"] == "a.jpg" and first["explained"] and first["steps"][0]["margin"] == 1e-7
    assert not second["explained"] and second["steps"][0]["margin"] is None


def test_tables_show_every_left_over():
    text = report.to_markdown(whole(left_overs=[NARROW, WIDE]))
    row = "a.jpg | ours | 3 | 0.050000 | score threshold 0.05 | 1.0e-07 (1e-04) |"
    assert f"| each image alone | {row}" in text
    assert "**unexplained**: no reason" in text
    assert "| C2 | 1.0e-06 | 1e-05 | relative |" in text


def test_a_model_without_masks_has_an_empty_cell():
    found = comparison(5, [], mask_share=None)
    stage = report.Stage("C2", "relative", 1e-5)
    result = report.Report("faster", "torchvision", [stage], [found], {"images": 1})
    assert report.to_dict(result)["comparisons"][0]["mask_share"] is None
    assert "| 1.0e-02 | 2.0e-05 | | | none |" in report.to_markdown(result)
    assert "| 2.0e-05 | 0.00% | 5 of 5000 | none |" in report.to_markdown(whole())
