"""The shell scripts print their usage if arguments are missing."""

import subprocess

import pytest

from tests.markdown import ROOT

SCRIPTS = sorted([*ROOT.glob("launch/*.s*"), *ROOT.glob("docs/*.sh"), ROOT / ".ci" / "run"])


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_scripts_are_there():
    assert len(SCRIPTS) >= 6


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_them(script):
    result = run("bash", "-n", script)
    assert result.returncode == 0 and not result.stderr, result.stderr


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("docs/your_data.sh", ()),
        ("docs/your_data.sh", ("photos", "annotations.json")),
        ("launch/processes.sh", ()),
        ("launch/processes.sh", ("--config=configs/shapes.py",)),
        ("launch/processes.sh", ("0", "--config=configs/shapes.py")),
    ],
)
def test_too_few_arguments_are_answered_by_the_usage(script, arguments):
    result = run(ROOT / script, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"usage: {ROOT / script} ") and result.stderr.count("\n") == 1
