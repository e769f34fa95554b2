"""The page on security names a test for each input, and no code reads input as a program."""

import ast
import re

import pytest

from tests.test_layering import PACKAGE, ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
# Functions that run what they are given.
RUNS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "spec.loader.exec_module"),
    *("subprocess.run", "subprocess.call", "subprocess.check_output", "subprocess.Popen"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "np.load", "marshal.loads"),
    *("yaml.load", "yaml.unsafe_load", "shelve.open", "cloudpickle.load", "joblib.load"),
}
ALLOWED = {
    ("cli/config_file.py", "spec.loader.exec_module"),  # Python configs are code, and said to be.
    ("cli/plan.py", "subprocess.run"),  # Runs the same command again.
    ("parity/detectron2.py", "spec.loader.exec_module"),  # The checkout that DETECTRON2 names.
    ("parity/reference.py", "spec.loader.exec_module"),  # A file of the tests' reference data.
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:30])
def test_each_row_has_a_test(row):
    name, trusted, _, tests = (cell.strip() for cell in row.strip("|").split("|"))
    paths = re.findall(r"`(tests/[\w/]+\.py)`", tests)
    assert all((ROOT / path).is_file() for path in paths)
    assert paths or trusted == "yes", f"{name} has no test"


def test_the_page_says_that_configs_are_code():
    (row,) = (row for row in ROWS if row.startswith("| Python configs"))
    assert "they are code" in row and len(ROWS) >= 17


def calls(path):
    """The names of the functions that a file calls, as written."""
    tree = ast.parse(path.read_text())
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_nothing_runs_its_input():
    files = sorted(PACKAGE.rglob("*.py"))
    found = {(path.relative_to(PACKAGE).as_posix(), name) for path in files for name in calls(path)}
    assert {pair for pair in found if pair[1] in RUNS} == ALLOWED
