"""The page of statistics: its histograms, and the page in a headless browser."""

import numpy as np
import pytest

from maskrcnn_jax.report import statistics_page
from tests.report.browser import CONTRAST

HOSTILE = "</script><script>window.broken = 1</script>"


def test_counts_have_a_bar_for_each_number():
    found = statistics_page.counts("n", np.array([0, 2, 2, 3]))
    assert found["counts"] == [1, 0, 2, 1] and found["names"] == ["0", "1", "2", "3"]
    assert statistics_page.counts("n", np.zeros(0, int))["counts"] == [0]


def test_many_counts_share_bars():
    found = statistics_page.counts("n", np.array([0, 1, 99, 100]))
    assert sum(found["counts"]) == 4 and len(found["counts"]) <= 41
    assert found["names"][0] == "0 to 2" and found["counts"][0] == 2


def test_octaves_hold_all_numbers_and_marks():
    found = statistics_page.octaves("side", np.array([8.0, 9, 16, 250]), [32, 512])
    assert found["names"][0] == "8 to 11.3" and found["counts"][:3] == [2, 0, 1]
    assert sum(found["counts"]) == 4
    assert found["marks"] == [[pytest.approx(2 / 7), "32"], [pytest.approx(6 / 7), "512"]]
    assert sum(statistics_page.octaves("side", np.zeros(0), [32])["counts"]) == 0


def test_shares_have_twenty_bars():
    found = statistics_page.shares("overlap", np.array([0, 0.049, 0.5, 1]))
    assert len(found["counts"]) == 20 and [found["counts"][i] for i in (0, 10, 19)] == [2, 1, 1]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "s.html"
    statistics_page.write(
        path,
        title=HOSTILE,
        tables=[("one", ["a", "b"], [[HOSTILE, "3"], ["y", "4"]])],
        charts=[
            statistics_page.counts("first", np.array([0, 2, 2])),
            statistics_page.octaves("second", np.array([40.0]), [32, 64]),
            statistics_page.shares("third", np.zeros(0)),
        ],
    )
    return path


def test_the_page_draws_bars_and_tables(started, path):
    started.appear(1200, 900, "light")
    started.open(path)
    assert started.problems == [] and started.evaluate("window.broken === undefined")
    assert started.evaluate("document.querySelector('h1').textContent") == HOSTILE
    rows = (
        "[...document.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert started.evaluate(rows) == [[HOSTILE, "3"], ["y", "4"]]
    bars = (
        "[...document.querySelectorAll('svg.chart')].map(s => [...s.querySelectorAll('rect')]"
        ".map(r => [Number(r.getAttribute('height')), r.textContent]))"
    )
    first, second, third = started.evaluate(bars)
    assert [height for height, _ in first] == [pytest.approx(117), 0, pytest.approx(234)]
    assert [name for _, name in first] == ["0: 1", "1: 0", "2: 2"]
    assert [name for height, name in second if height > 0] == ["32 to 45.3: 1"]
    assert len(third) == 20 and not any(height for height, _ in third)
    assert started.evaluate("document.querySelectorAll('.threshold').length") == 2
    assert started.evaluate(CONTRAST) > 4.5
