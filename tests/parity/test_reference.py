"""Where torchvision's operators come from if its build does not fit that of torch, with empty packages for both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT_OPERATORS = """
class extension:
    @staticmethod
    def _has_ops():
        raise RuntimeError("operator torchvision::nms does not exist")
"""


def stand_ins(folder, message):
    """A file in the place of the reference data's, which refuses with a message."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["print('read')", "def load():", f"    raise ImportError({message!r})"]
    (folder / "tv_real_ops.py").write_text("\n".join(lines))


def import_reference(tmp_path, shared):
    """What is printed by a process in a folder that has stand-ins of its own, in all places that might be looked at."""
    for name, content in {"torch": "", "torchvision": WITHOUT_OPERATORS}.items():
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(content)
    for folder in ("here", "here/oracle"):
        stand_ins(tmp_path / folder, "of the working directory")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'packages'}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    environment.pop("MASKRCNN_JAX_SHARED", None)
    if shared is not None:
        environment["MASKRCNN_JAX_SHARED"] = shared
    command = [sys.executable, "-c", "import maskrcnn_jax.parity.reference"]
    done = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("shared", [None, "", "nowhere"])
def test_nothing_of_the_working_directory_is_imported(tmp_path, shared):
    printed = import_reference(tmp_path, shared)
    assert "ImportError: torchvision cannot load its compiled operators" in printed
    assert "read" not in printed.splitlines()


@pytest.mark.parametrize("relative", [True, False])
def test_the_reference_data_come_before_the_working_directory(tmp_path, relative):
    stand_ins(tmp_path / "shared" / "oracle", "of the reference data")
    printed = import_reference(tmp_path, "../shared" if relative else str(tmp_path / "shared"))
    assert "ImportError: of the reference data" in printed and "working directory" not in printed
