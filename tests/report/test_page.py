"""The page of an evaluation, as a file and in a headless browser without a network."""

import json
import re

import numpy as np
import pytest

from maskrcnn_jax import coco_metrics
from maskrcnn_jax.report import page
from tests.report import samples
from tests.report.browser import CONTRAST

IMAGES = "[...document.querySelectorAll('#images article')].map(e => Number(e.dataset.id))"
CLASSES = "[...document.querySelectorAll('#classes tbody th')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    drawn = []
    annotations, results = samples.by_hand()
    options = {"title": "Evaluation of <runs> & 'more'", "max_detections": 100}
    page.write(path, samples.Images(), annotations, results, **options, advance=drawn.append)
    assert drawn == [1] * 4
    return path


@pytest.fixture
def browser(started, report):
    """The freshly opened page on a large screen. Fails the test if the console has errors."""
    started.appear(1200, 900, "light")
    started.open(report)
    yield started
    assert started.problems == []
    assert {address.split(":")[0] for address in started.requests} == {"file", "data"}
    assert sum(address.startswith("file:") for address in started.requests) == 1
    assert started.evaluate("window.broken === undefined")


@pytest.fixture
def boxes_alone(started, tmp_path):
    """The page of a model without masks, and its evaluation."""
    annotations, results = samples.by_hand()
    for result in results:
        del result["segmentation"]
    options = {"title": "Boxes", "max_detections": 100, "masks": False}
    page.write(tmp_path / "boxes.html", samples.Images(), annotations, results, **options)
    started.appear(1200, 900, "light")
    started.open(tmp_path / "boxes.html")
    yield started
    assert started.problems == []


def test_without_masks_the_page_is_about_boxes(boxes_alone):
    heads = "[...document.querySelectorAll('{} thead th')].map(e => e.textContent.split(' ')[0])"
    assert boxes_alone.evaluate(heads.format("#numbers")) == ["number", "box", "meaning"]
    assert boxes_alone.evaluate(heads.format("#classes"))[-2:] == ["box", "box"]
    options = "[...document.querySelector('[name=match]').options].map(e => e.textContent)"
    assert boxes_alone.evaluate(options) == ["boxes"]
    assert len(boxes_alone.evaluate(IMAGES)) == 4
    assert "boxes" in boxes_alone.evaluate("document.querySelector('#curves-class').textContent")


def data_of(text):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*)</script>', text)[1]
    )


def test_the_file_refers_to_nothing_outside(report):
    text = report.read_text(encoding="utf-8")
    assert "{{" not in text and text.count("<script") == text.count("</script>") == 2
    addresses = set(re.findall(r"https?://[^\"'\s<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # A namespace, which no browser requests.
    assert not re.search(r"@import|url\(|<link|<iframe|\bsrc=(?!x)", text)


def test_a_script_that_got_into_the_page_is_not_run(started, report, tmp_path):
    """The browser runs the page's own script only, which it knows by its digest."""
    text = report.read_text(encoding="utf-8")
    hostile = "<script>window.broken = 3</script><img src=x onerror='window.broken = 4'>"
    (tmp_path / "page.html").write_text(text.replace("<main>", f"<main>{hostile}"), "utf-8")
    started.open(tmp_path / "page.html")
    assert started.evaluate("window.broken === undefined")
    assert started.evaluate(CLASSES)
    refused = [x for x in started.problems if "Content Security Policy" in x]
    assert len(refused) == 3  # The script, the handler and the image.


def test_placeholders_in_the_data_stay_as_they_are(tmp_path):
    annotations, results = samples.by_hand()
    annotations["categories"][0]["name"] = "{{style}}"
    page.write(
        tmp_path / "a.html",
        samples.Images(),
        annotations,
        results,
        title="{{data}}",
        max_detections=100,
    )
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<title>{{data}}</title>" in text
    assert data_of(text)["classes"][0]["name"] == "{{style}}"


def test_the_most_missed_and_the_most_false_take_turns():
    def image(number, missed, false):
        objects = {"segm": [-1] * missed}
        detections = {"score": [900] * false, "segm": [0] * false}
        return {"id": number, "objects": objects, "detections": detections}

    counts = [(0, 0), (1, 9), (5, 0), (3, 1), (0, 8)]
    listed, drawn = page.choose([image(i, *pair) for i, pair in enumerate(counts)])
    assert [x["id"] for x in listed] == [1, 4, 2, 3, 0]
    assert [x["id"] for x in drawn] == [2, 1, 3, 4, 0]


def test_lists_and_drawings_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "MAX_LISTED", 3)
    monkeypatch.setattr(page, "MAX_DRAWN", 2)
    page.write(
        tmp_path / "a.html", samples.Images(), *samples.by_hand(), title="", max_detections=100
    )
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    data = data_of(text)
    assert [image["id"] for image in data["images"]] == [5, 1, 2] and data["numImages"] == 4
    assert ["drawing" in image["objects"] for image in data["images"]] == [True, True, False]
    assert text.count("data:image/jpeg") == 4


def test_objects_without_a_finite_box_are_no_trouble(tmp_path):
    annotations, results = samples.by_hand()
    annotations["annotations"][1]["bbox"] = [float("nan"), 0, float("inf"), 5]
    page.write(
        tmp_path / "a.html", samples.Images(), annotations, results, title="", max_detections=100
    )
    images = data_of((tmp_path / "a.html").read_text(encoding="utf-8"))["images"]
    assert [image["objects"]["boxes"] for image in images if image["id"] == 1] == [
        [[5, 5, 20, 20], [0, 0, 0, 0]]
    ]


def test_names_are_shown_as_they_are(browser):
    assert (
        browser.evaluate("[document.title, document.querySelector('h1').textContent]")
        == ["Evaluation of <runs> & 'more'"] * 2
    )
    assert set(browser.evaluate(CLASSES)) == set(samples.NAMES.values())
    titles = browser.evaluate(
        "[...document.querySelectorAll('#images h3')].map(e => e.textContent)"
    )
    files = samples.FILES
    assert titles == ["image 5", f"{files[1]} (id 1)", "crowd's.jpg (id 2)", 'b"&amp;.jpg (id 6)']
    assert browser.evaluate("document.querySelectorAll('b, #images img[src=x]').length") == 0


def test_the_numbers_are_those_of_the_evaluation(browser):
    rows = browser.evaluate(
        "[...document.querySelectorAll('#numbers tbody tr')]"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    mask, box = (coco_metrics.coco_summary(*samples.by_hand(), kind) for kind in ("segm", "bbox"))
    shown = [
        [name, *("\u2013" if x[name] == -1 else f"{x[name]:.3f}" for x in (mask, box))]
        for name in mask
    ]
    assert [row[:3] for row in rows] == shown and all(len(row[3]) > 10 for row in rows)


def test_drawings_are_shown_side_by_side_with_frames_around_mistakes(browser):
    first = "document.querySelector('article[data-id=\"1\"]')"
    sizes = browser.evaluate(
        f"Promise.all([...{first}.querySelectorAll('img')]"
        ".map(i => (i.loading = 'eager', i.decode()).then(() =>"
        " { const r = i.getBoundingClientRect();"
        " return [i.naturalWidth, i.naturalHeight, r.x, r.y]; })))"
    )
    assert [size[:2] for size in sizes] == [[420, 315]] * 2
    assert sizes[0][3] == sizes[1][3] and sizes[1][2] - sizes[0][2] > 420
    frames = (
        f"[...{first}.querySelectorAll('rect:not(.halo)')]"
        ".map(e => [e.getAttribute('class'), e.textContent])"
    )
    name = samples.NAMES[3]
    assert browser.evaluate(frames) == [
        ["missed", f"missed: {name}"],
        ["false", f"false: {name} 0.80"],
    ]


def test_classes_are_sorted_by_a_click_and_filtered_by_name(browser):
    cat, dog, none = samples.NAMES.values()
    heading = "#classes thead th:nth-child({}) button"
    # The order is by AP. A class without objects has no AP.
    assert browser.evaluate(CLASSES) == [cat, dog, none]
    browser.click(heading.format(6))
    assert browser.evaluate(CLASSES) == [dog, cat, none]
    browser.click(heading.format(2))
    assert browser.evaluate(CLASSES) == [dog, cat, none]  # Most objects first.
    assert (
        browser.evaluate("document.querySelector('#classes th:nth-child(2)').ariaSort")
        == "descending"
    )
    browser.click(heading.format(2))
    assert browser.evaluate(CLASSES) == [none, cat, dog]
    # The focus stays on the heading.
    assert browser.evaluate("document.activeElement.textContent") == "objects \u25b2"
    browser.type("#classes-filter [name=name]", "REX")
    assert browser.evaluate(CLASSES) == [dog]
    assert (
        browser.evaluate("document.querySelector('#classes-filter [role=status]').textContent")
        == "1 of 3 classes"
    )


def test_a_class_chosen_in_the_table_rules_the_page(browser):
    browser.click("#classes tbody tr:nth-child(2) button")
    assert browser.evaluate("document.querySelector('#view select').value") == "1"
    dog = samples.NAMES[7]
    labels = browser.evaluate(
        "[...document.querySelectorAll('svg.chart')].map(e => e.getAttribute('aria-label'))"
    )
    assert labels[0].startswith(f"Precision against recall of {dog}: AP 0.916 at IoU 0.5, ")
    assert labels[1] == f"Scores of the detections of {dog}: 3 correct, 1 false"
    # The other images have neither a dog nor a detected dog.
    assert browser.evaluate(IMAGES) == [
        2,
        6,
    ]
    browser.select("#view [name=class]", "2")
    assert "no objects of this class" in browser.evaluate(
        "document.querySelector('#curves').textContent"
    )


def test_images_are_sorted_and_filtered(browser):
    assert browser.evaluate(IMAGES) == [5, 1, 2, 6]
    browser.select("#images-filter [name=sort]", "missed")
    assert browser.evaluate(IMAGES) == [1, 2, 5, 6]
    browser.select("#images-filter [name=sort]", "name")
    assert browser.evaluate(IMAGES) == [1, 6, 2, 5]
    browser.type("#images-filter [name=missed]", "1")
    assert browser.evaluate(IMAGES) == [1, 2]
    browser.type("#images-filter [name=false]", "1")
    assert browser.evaluate(IMAGES) == [1]
    browser.type("#images-filter [name=missed]", "0")
    browser.type("#images-filter [name=name]", "IMAGE")
    assert browser.evaluate(IMAGES) == [5]
    assert (
        browser.evaluate("document.querySelector('#images-filter [role=status]').textContent")
        == "1 of 4 images"
    )


def test_the_threshold_counts_anew_and_the_address_keeps_it(browser, report):
    counts = (
        "[...document.querySelectorAll('#images article')]"
        ".map(e => [e.dataset.id, e.querySelector('p').textContent])"
    )
    browser.select("#view [name=threshold]", "0.3")
    assert dict(browser.evaluate(counts))["2"] == "1 object: 1 found, 0 missed; 0 false detections"
    assert dict(browser.evaluate(counts))["6"] == "2 objects: 2 found, 0 missed; 1 false detection"
    browser.select("#view [name=match]", "bbox")
    fragment = browser.evaluate("new Promise(done => setTimeout(() => done(location.hash), 400))")
    assert fragment == "#match=bbox&threshold=0.3"
    browser.open(report, fragment + "&sort=name")
    assert browser.evaluate(IMAGES) == [1, 6, 2, 5]
    assert browser.evaluate("document.querySelector('#view output').textContent") == "0.30"
    assert browser.evaluate("document.querySelector('#view [name=match]').value") == "bbox"


def test_an_address_with_mistakes_is_read_as_far_as_it_makes_sense(browser, report):
    browser.open(
        report,
        "#class=99&threshold=seven&sort=constructor&other=1&toString=x&missed=x"
        "&classSort=valueOf&false=1",
    )
    assert browser.evaluate(IMAGES) == [5, 1]
    browser.select("#images-filter [name=sort]", "name")
    assert browser.evaluate(IMAGES) == [1, 5]
    kept = browser.evaluate("new Promise(done => setTimeout(() => done(location.hash), 400))")
    assert kept == "#classSort=valueOf&sort=name&false=1"


def test_curves_have_the_precision_at_each_recall(browser):
    browser.select("#view [name=class]", "0")
    points = browser.evaluate(
        "document.querySelector('polyline[data-iou=\"IoU 0.5\"]').getAttribute('points')"
    )
    x, y = np.array([pair.split(",") for pair in points.split()], float).T
    assert len(x) == 101 and (np.diff(x) > 0).all()
    # One of two cats is found before any false detection.
    one, zero = browser.evaluate("[upwards(1), upwards(0)]")
    assert set(y[:51]) == {one} and set(y[51:]) == {zero} and one + 100 < zero


def test_more_images_are_shown_on_request(browser):
    browser.evaluate(
        "{ data.images = Array.from({length: 45}, (_, i) => ({...data.images[1], id: i}));"
        " render(); }"
    )
    lengths = [len(browser.evaluate(IMAGES))]
    for _ in range(2):
        browser.click("#more")
        lengths.append(len(browser.evaluate(IMAGES)))
    assert lengths == [20, 40, 45]
    assert browser.evaluate("document.querySelector('#more').hidden")


def test_everything_to_operate_has_a_name(browser):
    browser.send("Accessibility.enable")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and "name" in node
    ]
    roles = {
        "combobox",
        "slider",
        "searchbox",
        "spinbutton",
        "checkbox",
        "button",
        "image",
        "region",
        "form",
    }
    names = {role: [name for r, name in found if r == role] for role in roles}
    assert all(names[role] and all(names[role]) for role in roles), names


@pytest.mark.parametrize(
    "scheme, background", [("light", "rgb(255, 255, 255)"), ("dark", "rgb(15, 19, 24)")]
)
def test_text_is_legible_in_light_and_dark(browser, scheme, background):
    browser.appear(1200, 900, scheme)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == background
    # Level AA of the Web Content Accessibility Guidelines.
    assert browser.evaluate(CONTRAST) >= 4.5


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(browser, width):
    browser.appear(width, 800, "light")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        browser.evaluate(
            "Math.max(...[...document.querySelectorAll('svg.chart')].map(e => e.clientWidth))"
        )
        > 280
    )
