"""The page of the server in a headless browser."""

import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="uvicorn and starlette are the extra `serve`")

from maskrcnn_jax import images, pasting  # noqa: E402
from tests.report.browser import CONTRAST, Browser  # noqa: E402
from tests.serving.stand_in import running, stand_in_detector  # noqa: E402

PHONE, SCREEN = (390, 844), (1280, 900)
BOX = (60, 30, 240, 150)  # Of the red rectangle in the picture.
ROWS = "[...document.querySelectorAll('#objects button')].map(e => e.textContent)"
PRESSED = "[...document.querySelectorAll('#objects button')].map(e => e.ariaPressed)"
# The colour of the canvas at a place of the picture, in shares of its sides.
PIXEL = """
(([x, y]) => { const c = document.querySelector("#view");
  return [...c.getContext("2d").getImageData(x * c.width, y * c.height, 1, 1).data]; })({})
"""
DROP = """
(() => {{ const sent = new DataTransfer(), content = Uint8Array.from({});
  sent.items.add(new File([content], "dropped.png", {{type: "image/png"}}));
  dispatchEvent(new DragEvent("drop", {{dataTransfer: sent, cancelable: true}})); }})()
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no chromium to open the page with")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"), local=True)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def server():
    with running(stand_in_detector(), num_bytes=200_000) as server:
        yield server


@pytest.fixture
def browser(started, server):
    """The page on a large screen. Fails the test if the console has errors."""
    server.detector.model.gate.set()
    server.detector.model.batches.clear()
    started.appear(*SCREEN, "light")
    started.visit(server.address)
    yield started
    assert started.problems == []
    assert {request.split(":")[0] for request in started.requests} <= {"http", "blob", "data"}
    assert all(x.startswith((server.address, "blob:", "data:")) for x in started.requests)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A grey picture of 200x300 pixels with a red rectangle."""
    pixels = np.full((200, 300, 3), 60, np.uint8)
    x0, y0, x1, y1 = BOX
    pixels[y0:y1, x0:x1] = 255, 0, 0
    path = tmp_path_factory.mktemp("pictures") / "a picture.png"
    Image.fromarray(pixels).save(path)
    return path


def open_picture(browser, path):
    browser.choose_file("#file", path)
    browser.wait("!document.querySelector('#controls').hidden")


def move_threshold(browser, value):
    browser.select("#threshold", str(value))


def test_a_picture_is_looked_at_from_all_sides(browser, server, picture):
    browser.wait("document.querySelector('#model').textContent === 'a model, 3 categories'")
    open_picture(browser, picture)
    rows = ["<b>dog0.90", "cat0.60"]
    assert browser.evaluate(ROWS) == rows
    assert browser.evaluate("document.querySelector('#count').textContent") == "2 of 2 objects"

    # The threshold needs no other request.
    move_threshold(browser, 0.7)
    assert browser.evaluate(ROWS) == rows[:1]
    move_threshold(browser, 0.95)
    assert browser.evaluate(ROWS) == []
    plain = browser.evaluate(PIXEL.replace("{}", "[0.6, 0.6]"))
    assert plain[:3] == [255, 0, 0]
    move_threshold(browser, 0.7)
    assert server.detector.model.batches == [1]

    # The mask of the stand-in is inside in the lower half of its box.
    assert browser.evaluate(PIXEL.replace("{}", "[0.6, 0.6]")) != plain
    assert browser.evaluate(PIXEL.replace("{}", "[0.6, 0.3]")) == plain
    browser.click("#masks")
    assert browser.evaluate(PIXEL.replace("{}", "[0.6, 0.6]")) == plain
    browser.click("#masks")

    # A click on the mask chooses the object; one beside it chooses nothing.
    move_threshold(browser, 0.5)
    click_in_picture(browser, 0.75, 0.72)
    assert browser.evaluate(PRESSED) == ["true", "false"]
    click_in_picture(browser, 0.02, 0.02)
    assert browser.evaluate(PRESSED) == ["false", "false"]
    click_in_picture(browser, 0.4, 0.6)  # The smaller box lies on the larger one.
    assert browser.evaluate(PRESSED) == ["false", "true"]
    browser.click("#objects button")
    assert browser.evaluate(PRESSED) == ["true", "false"]


def click_in_picture(browser, x, y):
    left, top, width, height = browser.evaluate(
        "(() => { const r = document.querySelector('#view').getBoundingClientRect();"
        " return [r.left, r.top, r.width, r.height]; })()"
    )
    place = {"x": left + x * width, "y": top + y * height, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        browser.send("Input.dispatchMouseEvent", type=kind, **place)


def test_masks_of_the_page_are_those_of_the_answer(browser, server, picture):
    (found,) = server.detector(images.read_image(picture), 0.65)
    expected = found["masks"][0, 0] > 0.5
    open_picture(browser, picture)
    decoded = browser.evaluate(
        "(() => { const {mask, box} = state.answer.detections[0];"
        " const {x, y, width, height, cells} = maskInView(mask, box, {width: 300, height: 200});"
        " return [x, y, width, height, [...cells]]; })()"
    )
    x, y, width, height, cells = decoded
    mask = np.zeros(expected.shape, bool)
    mask[y : y + height, x : x + width] = np.reshape(cells, (height, width)) > 0
    np.testing.assert_array_equal(mask, expected)


def test_run_lengths_of_the_page_are_those_of_coco(browser):
    masks = [
        np.zeros((3, 4), bool),
        np.ones((3, 4), bool),
        np.random.default_rng(0).random((70, 50)) > 0.5,
        np.arange(9_000_000).reshape(3000, 3000) // 1_500_000 % 2 == 0,
    ]
    for mask in masks:
        text = pasting.encode(mask, (0, 0), mask.shape)["counts"]
        edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=~mask.T.ravel()[-1]))
        runs = np.diff(edges, prepend=0).tolist()
        assert browser.evaluate(f"runLengths({json.dumps(text)})") == runs


def test_downloads(browser, picture, tmp_path):
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.send("Page.setDownloadBehavior", **folder)
    open_picture(browser, picture)
    move_threshold(browser, 0.7)
    browser.click("#json")
    browser.click("#picture")
    saved = [tmp_path / f"a picture-objects.{suffix}" for suffix in ("json", "png")]
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in saved):
        assert time.monotonic() < deadline, sorted(tmp_path.iterdir())
        browser.evaluate("1")
        time.sleep(0.02)
    content = json.loads(saved[0].read_text())
    assert content["size"] == [200, 300] and len(content["detections"]) == 1
    drawn, plain = images.read_image(saved[1]), images.read_image(picture)
    assert drawn.shape == plain.shape and (drawn != plain).any()
    assert (drawn[5:25, 5:25] == plain[5:25, 5:25]).all()


def test_a_picture_is_dropped_and_mistakes_are_said(browser, server, picture, tmp_path):
    browser.evaluate(DROP.format(list(picture.read_bytes())))
    browser.wait("!document.querySelector('#controls').hidden")
    assert browser.evaluate("state.file.name") == "dropped.png"
    (tmp_path / "text.png").write_text("no picture")
    browser.choose_file("#file", tmp_path / "text.png")
    browser.wait("!document.querySelector('#error').hidden")
    assert "it is text" in browser.evaluate("document.querySelector('#error').textContent")
    # Chromium reports answers that are no success in the console.
    assert all("415" in problem for problem in browser.problems)
    browser.problems.clear()
    open_picture(browser, picture)
    assert browser.evaluate("document.querySelector('#error').hidden")


@pytest.mark.parametrize("size, scheme", [(PHONE, "light"), (SCREEN, "dark")])
def test_it_fits_and_can_be_read(browser, picture, size, scheme):
    browser.appear(*size, scheme)
    for is_opened in (False, True):
        if is_opened:
            open_picture(browser, picture)
        assert browser.evaluate("document.scrollingElement.scrollWidth") <= size[0]
        assert browser.evaluate(CONTRAST) >= 4.5
