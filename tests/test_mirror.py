"""Tests mirror the package: a file with logic has a test file of its name in the same folder."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "maskrcnn_jax"
# Files that others test whole, by their path in the package.
DEFINITIONS = "defines arguments, which tests/cli/test_main.py, test_mistakes.py and others parse"
EXCEPTIONS = {
    f"cli/arguments/{name}.py": DEFINITIONS
    for name in ("checks", "common", "data", "detection", "models")
}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.name.startswith("__")]


def has_logic(path):
    """Whether a file has a function; others hold tables and fields alone."""
    return re.search(r"^ *(async )?def \w", path.read_text(), re.MULTILINE) is not None


def file_of_tests(path):
    relative = path.relative_to(PACKAGE)
    return TESTS / relative.parent / f"test_{path.stem.lstrip('_')}.py"


def test_every_file_with_logic_has_a_test_file():
    missing = [
        str(path.relative_to(PACKAGE))
        for path in FILES
        if has_logic(path) and not file_of_tests(path).exists()
    ]
    assert [name for name in missing if name not in EXCEPTIONS] == []
    assert sorted(EXCEPTIONS) == missing, "an exception is needed no more"


@pytest.mark.parametrize("name", ["detectron2_keys", "literals"])
def test_tables_are_no_logic(name):
    assert has_logic(PACKAGE / "weights" / f"{name}.py") == (name == "literals")
