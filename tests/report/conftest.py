"""One browser for all tests of pages."""

import shutil

import pytest

from tests.report.browser import Browser


@pytest.fixture(scope="package")
def started(tmp_path_factory):
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no chromium to open the page with")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
