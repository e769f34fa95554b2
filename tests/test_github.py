"""The workflows run the checks of `.ci/run`; forms and hooks are as their readers expect."""

import re
import shlex

import pytest
import yaml

from tests import shown_commands
from tests.markdown import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def read(path):
    return yaml.safe_load(path.read_text())


def steps(path):
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def commands(path):
    return [step["run"] for step in steps(path) if "run" in step]


def test_a_pull_request_runs_all_checks():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    checks = {line for line in lines if line.startswith(("make ", ".venv/bin/"))}
    assert len(checks) >= 4
    assert checks - set(commands(GITHUB / "workflows" / "checks.yml")) == set()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow(path):
    """YAML reads the key ``on`` as True."""
    content = read(path)
    assert content[True] and content["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 60 for job in content["jobs"].values())
    for step in steps(path):
        assert ("run" in step) != bool(re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "")))
    for command in commands(path):
        if shlex.split(command)[0] == "make" and "/" not in command:
            shown_commands.check(command)


def test_every_python_that_is_tested_is_allowed():
    content = read(GITHUB / "workflows" / "checks.yml")
    versions = content["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert f'requires-python = ">={versions[0]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_for_issues(path):
    form = read(path)
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) > 0


def test_the_form_for_bugs_asks_for_the_doctor():
    assert "`maskrcnn-jax doctor`" in (GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text()


def test_hooks_have_the_version_of_the_lint():
    pinned = re.search(r"^ruff==.*$", (ROOT / "constraints.txt").read_text(), re.M)[0]
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = repository["hooks"]
    assert [hook["entry"].split()[:2] for hook in hooks] == [["ruff", "check"], ["ruff", "format"]]
    assert all(hook["additional_dependencies"] == [pinned] for hook in hooks)
