"""The page of a training run: its data, and the page in a headless browser."""

import json
import math
import re

import pytest

from maskrcnn_jax import coco_metrics, evaluation
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.report import run_page
from maskrcnn_jax.runs import run_directory
from tests.report import samples
from tests.report.browser import CONTRAST

CURVES = (
    "[...document.querySelector('{}').querySelectorAll('polyline')]"
    ".map(e => [e.dataset.name, e.points.length])"
)
LEGEND = "[...document.querySelector('{}').querySelectorAll('li')].map(e => e.textContent)"
ROWS = (
    "[...document.querySelectorAll('#{} tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
)
LOSS, RATE = '[data-series="loss validation/loss"]', "[data-series=learning_rate]"


class Images(samples.Images):
    """Stands in for a data set whose examples have an id."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        example.image_id = int(self.image_ids[index])
        return example


def entry(step, **values):
    return {
        "step": step,
        "loss": 8.0 / step,
        "loss_mask": 1.0,
        "learning_rate": 0.01,
        "surplus_instances": 0.0,
        "removed_instances": 0.5 * step,
    } | values


def result_of(annotations, results):
    twelve = [coco_metrics.coco_summary(annotations, results, kind) for kind in ("bbox", "segm")]
    per_class = [coco_metrics.per_class_ap(annotations, results, kind) for kind in ("bbox", "segm")]
    return evaluation.Evaluation(*twelve, {"loss": 0.5}, *per_class, results)


def write(directory, entries, change=lambda annotations: None, masks=True):
    config = Config(batch_size=2, num_steps=8)
    config.optimizer.learning_rate = 0.125
    run_directory.write_run(
        directory, config, Categories(tuple(samples.NAMES), tuple(samples.NAMES.values()))
    )
    (directory / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in entries))
    annotations, results = samples.by_hand()
    change(annotations)
    known = [found for found in results if found["category_id"] in samples.NAMES]
    result = result_of(annotations, known)
    if not masks:
        result = result._replace(segm=None, segm_per_class=None)
    run_page.write(directory, result, Images(), annotations)
    return directory / "report.html", result


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    numbers = {"bbox": {"AP": 0.5, "AP50": 0.75}, "validation": {"loss": 3.0}}
    better, worse = ({"segm": {"AP": ap, "AP50": 0.5}} | numbers for ap in (0.25, 0.125))
    entries = [
        entry(1),
        entry(2),
        {"step": 2} | better,
        entry(4),
        entry(8, mask_accuracy=0.5),
        {"step": 8} | worse,
    ]
    return write(tmp_path_factory.mktemp("a") / "<b>my & run", entries)


@pytest.fixture
def browser(started, report):
    """The page on a large screen. Fails the test if the console has errors."""
    started.appear(1200, 900, "light")
    started.open(report[0])
    yield started
    assert started.problems == []
    assert {address.split(":")[0] for address in started.requests} <= {"file", "data"}
    assert started.evaluate("window.broken === undefined")


def test_entries_become_columns():
    entries = [{"step": 5, "loss": 2.0}, {"step": 10, "loss": 1.23456789, "new": math.nan}]
    assert run_page.columns(entries) == {
        "step": [5, 10],
        "loss": [2.0, 1.2346],
        "new": [None, None],
    }
    assert run_page.columns([]) == {"step": []}


def test_long_logs_are_averaged(monkeypatch):
    monkeypatch.setattr(run_page, "MAX_ENTRIES", 2)
    entries = [{"step": step, "loss": float(step)} for step in (1, 2, 3, 4, 6)]
    assert run_page.columns(entries) == {"step": [3, 6], "loss": [2.0, 5.0]}


def test_the_file_refers_to_nothing_outside(report):
    text = report[0].read_text(encoding="utf-8")
    assert "{{" not in text and text.count("<script") == text.count("</script>") == 2
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert text.count("data:image/jpeg") == 2 * len(samples.FILES)


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*)</script>', text)[1]
    )


def test_objects_without_a_finite_box_are_no_trouble(tmp_path):
    path, _ = write(
        tmp_path,
        [],
        lambda content: content["annotations"][1].update(bbox=[math.nan, 0, math.inf, 5]),
    )
    assert len(data_of(path)["drawings"]) == len(samples.FILES)


def test_classes_of_one_name_each_have_their_ap(tmp_path):
    def rename(annotations):
        for category in annotations["categories"]:
            category["name"] = "cat"

    path, result = write(tmp_path, [], rename)
    found = [entry["segm"] for entry in data_of(path)["classes"]]
    assert (
        found[:2] == [result.segm_per_class[f"cat (id {i})"] for i in (3, 7)]
        and found[0] != found[1]
    )


def test_names_and_tables(browser, report):
    assert (
        browser.evaluate("document.querySelector('h1').textContent") == "Training run <b>my & run"
    )
    shown = lambda value: "\u2013" if value == -1 else f"{value:.3f}"  # noqa: E731
    _, result = report
    assert browser.evaluate(ROWS.format("numbers")) == [
        [name, shown(result.segm[name]), shown(result.bbox[name])] for name in result.segm
    ]
    assert browser.evaluate(ROWS.format("classes")) == [
        [
            name,
            str(i),
            str(count),
            shown(result.segm_per_class[name]),
            shown(result.bbox_per_class[name]),
        ]
        for (i, name), count in zip(samples.NAMES.items(), (2, 3, 0), strict=True)
    ]
    assert browser.evaluate(ROWS.format("evaluations")) == [
        ["2", "0.250", "0.500", "0.500", "0.750", "3.000"],
        ["8", "0.125", "0.500", "0.500", "0.750", "3.000"],
    ]
    overview = browser.evaluate("document.querySelector('#overview').textContent")
    assert "8 steps of 2 images; 4 validation images with 5 objects of 3 classes" in overview
    assert "The best mask AP was 0.250, after step 2." in overview


def test_curves_show_the_log(browser):
    assert browser.evaluate(CURVES.format(LOSS)) == [["loss", 4], ["validation/loss", 2]]
    assert browser.evaluate(LEGEND.format(LOSS)) == ["loss 1", "validation loss 3"]
    points = f"[...document.querySelector('{LOSS} polyline').points].map(p => [p.x, p.y])"
    positions = browser.evaluate(points)
    expected = browser.evaluate(
        "[[1, 8], [2, 4], [4, 2], [8, 1]].map(([x, y]) => [across(x / 8), upwards(y / 8)])"
    )
    assert positions == [pytest.approx(pair, abs=0.1) for pair in expected]
    left_out = LEGEND.format("[data-series^=surplus_instances]")
    assert browser.evaluate(left_out) == ["surplus instances 0", "removed instances 4"]
    browser.select("#view [name=window]", "5")
    averages = browser.evaluate("[14 / 3, 15 / 4, 15 / 4, 7 / 3].map((y) => upwards(y / 5))")
    assert [y for _, y in browser.evaluate(points)] == pytest.approx(averages, abs=0.1)
    assert browser.evaluate(LEGEND.format("[data-series^=mask_accuracy]")) == ["mask accuracy 0.5"]
    assert "no such numbers" in browser.evaluate(
        "document.querySelector('[data-series=gradient_norm]').textContent"
    )


def test_losses_may_be_logarithmic_and_nothing_else(browser):
    browser.click("#view [name=logarithmic]")
    ticks = "[...document.querySelectorAll('{} text[text-anchor=end]')].map(e => e.textContent)"
    assert browser.evaluate(ticks.format(LOSS)) == ["1", "10"]
    assert browser.evaluate(ticks.format(RATE))[0] == "0"


def test_values_follow_the_pointer(browser):
    box = browser.evaluate(
        f"(() => {{ const e = document.querySelector('{LOSS} svg');"
        " e.scrollIntoView({block: 'center'});"
        " const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()"
    )
    x = box[0] + box[2] * browser.evaluate("across(5 / 8)") / 440
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=box[1] + box[3] / 2)
    assert browser.evaluate(f"document.querySelector('{LOSS} .readout').textContent") == "step 5"
    assert browser.evaluate(LEGEND.format(LOSS)) == ["loss 2", "validation loss 3"]
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert browser.evaluate(LEGEND.format(LOSS)) == ["loss 1", "validation loss 3"]


def test_drawings_are_side_by_side(browser):
    sizes = browser.evaluate(
        "Promise.all([...document.querySelectorAll('#images img')]"
        ".map(i => (i.loading = 'eager', i.decode()).then(()"
        " => [i.naturalWidth, i.naturalHeight])))"
    )
    assert sizes == [[420, 315]] * 8
    titles = browser.evaluate(
        "[...document.querySelectorAll('#images h3')].map(e => e.textContent)"
    )
    assert titles == ["image 1", "image 2", "image 5", "image 6"]


def test_settings_are_filtered(browser):
    changed = [
        ["optimizer.learning_rate", "0.125", "0.02"],
        ["batch_size", "2", "16"],
        ["num_steps", "8", "90000"],
    ]
    assert browser.evaluate(ROWS.format("config")) == changed
    browser.click("#config-filter [name=changed]")
    browser.type("#config-filter [name=field]", "nms")
    names = [row[0] for row in browser.evaluate(ROWS.format("config"))]
    assert names == ["model.rpn.nms_threshold", "detection.nms_threshold"]


def test_a_run_without_masks_is_about_boxes(started, tmp_path):
    numbers = {"bbox": {"AP": 0.5, "AP50": 0.75}, "validation": {"loss": 3.0}}
    path, _ = write(tmp_path / "run", [entry(1), {"step": 1} | numbers], masks=False)
    started.open(path)
    assert started.problems == []
    assert started.evaluate(ROWS.format("evaluations")) == [["1", "0.500", "0.750", "3.000"]]
    assert all(len(row) == 2 for row in started.evaluate(ROWS.format("numbers")))
    assert "mask" not in started.evaluate("document.querySelector('#overview').textContent")
    assert started.evaluate("document.querySelector('#masks-title')") is None


def test_a_run_without_evaluations_or_with_only_zeros_is_shown(started, tmp_path):
    path, _ = write(tmp_path / "run", [entry(1, loss=0.0)])
    started.open(path)
    started.click("#view [name=logarithmic]")
    assert started.problems == []
    assert "NaN" not in started.evaluate(
        "document.querySelector('main').innerHTML.replace(/data:image[^\"]*/g, '')"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(browser, scheme):
    browser.appear(1200, 900, scheme)
    assert browser.evaluate(CONTRAST) >= 4.5


@pytest.mark.parametrize("width", [320, 768])
def test_nothing_is_wider_than_a_phone(browser, width):
    browser.appear(width, 800, "light")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
