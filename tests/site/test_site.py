"""The built site in a headless browser, served on this machine and with no other network."""

import shutil
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.markdown import ROOT
from tests.report.browser import Browser

pytestmark = pytest.mark.docs
SITE = ROOT / "build" / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("**/*.html"))
PHONE, SCREEN = (390, 844), (1280, 900)
# The widest part of the page that does not scroll alone, in pixels.
WIDEST = """
(() => {
  const scrolls = (e) => e && e !== document.body &&
    (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)
     || scrolls(e.parentElement));
  const all = [...document.querySelectorAll("article *")].filter(e => !scrolls(e));
  return Math.max(document.scrollingElement.scrollWidth,
                  ...all.map(e => e.getBoundingClientRect().right));
})()
"""
TABLES = "document.querySelectorAll('article table').length"
# Whether each table is inside of something that scrolls, and that is no wider than the window.
HELD = """
[...document.querySelectorAll("article table")].every(e => {
  const box = e.closest(".md-typeset__scrollwrap, .highlight");
  return box && box.getBoundingClientRect().right <= window.innerWidth + 1; })
"""


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address():
    """The address of the site."""
    assert PAGES, "the site is not built: make docs"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=SITE)) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no chromium to open the site with")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"), local=True)
    yield browser
    browser.close()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_on_a_phone(browser, address, page):
    browser.appear(*PHONE, "light")
    browser.visit(f"{address}/{page}")
    assert browser.evaluate("document.querySelector('article h1') !== null")
    assert browser.evaluate(WIDEST) <= PHONE[0]
    assert browser.evaluate(HELD)
    assert browser.problems == []
    assert [request for request in browser.requests if not _is_local(request, address)] == []


def _is_local(request, address):
    return request.startswith((address, "data:", "blob:"))


def test_there_are_tables_to_hold(browser, address):
    browser.appear(*PHONE, "light")
    browser.visit(f"{address}/settings.html")
    assert browser.evaluate(TABLES) >= 10
    browser.evaluate("document.querySelector('article table').parentElement.remove()")
    browser.evaluate("document.querySelector('article').append(document.createElement('table'))")
    assert not browser.evaluate(HELD)


def test_a_page_that_is_too_wide_is_found(browser, address):
    browser.appear(*PHONE, "light")
    browser.visit(f"{address}/models.html")
    browser.evaluate("document.querySelector('article p').style.width = '500px'")
    assert browser.evaluate(WIDEST) > PHONE[0]


def test_the_search_finds_roialign(browser, address):
    browser.appear(*SCREEN, "light")
    browser.visit(f"{address}/index.html")
    browser.evaluate("document.querySelector('#__search').click()")
    browser.type(".md-search__input", "RoIAlign")
    results = "[...document.querySelectorAll('.md-search-result__link')].map(e => e.href)"
    deadline = time.monotonic() + 30
    while not (found := browser.evaluate(results)) and time.monotonic() < deadline:
        time.sleep(0.1)
    places = {
        link.partition("#")[0].removeprefix(f"{address}/").partition("?")[0] for link in found
    }
    assert {"roialign.html", "api/poolers.html"} <= places
    assert browser.problems == []
