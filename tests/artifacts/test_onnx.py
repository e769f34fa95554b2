"""How far jax2onnx carries a detector, in an environment of its own: see `docs/deploy.md`."""

import json
import os
import subprocess

import pytest

from tests.markdown import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def convert(tmp_path):
    """Runs the conversion; returns how far it came. Skips without its environment."""
    python = os.environ.get("ONNX_PYTHON")
    if not python:
        pytest.skip("ONNX_PYTHON does not name the Python of an environment with jax2onnx")

    def run(*arguments, seconds=600):
        program = ROOT / "tests" / "artifacts" / "onnx_conversion.py"
        command = [python, str(program), str(tmp_path / "detector.onnx"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_choices_by_platform_have_no_rule(convert):
    """When this fails, jax2onnx has learned it: see `docs/deploy.md`."""
    found = convert("--as-is")
    assert found["step"] == "convert" and "platform_index" in found["error"]


def test_with_the_plain_forms_a_gather_of_a_batch_has_none(convert):
    """When this fails, jax2onnx has learned it: compare the detections, and say so on the page."""
    found = convert()
    assert found["step"] == "convert" and "Unhandled internal op in Gather" in found["error"]
