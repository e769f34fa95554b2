"""The source of torchvision's operators if the builds of torchvision and torch do not match.

Empty packages stand in for torchvision and torch.
"""

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
    """Writes stand-ins that raise an error with a message."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["print('read')", "def load():", f"    raise ImportError({message!r})"]
    (folder / "tv_real_ops.py").write_text("\n".join(lines))


def import_reference(tmp_path, shared):
    """Imports the reference in a process whose working directory has other stand-ins."""
    for name, content in {"torch": "", "torchvision": WITHOUT_OPERATORS}.items():
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(content)
    for folder in ("here", "here/oracle"):
        stand_ins(tmp_path / folder, "of the working directory")
    paths = f"{tmp_path / 'packages'}:{ROOT}"
    environment = os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    environment.pop("MASKRCNN_JAX_SHARED", None)
    if shared is not None:
        environment["MASKRCNN_JAX_SHARED"] = shared
    command = [sys.executable, "-c", "import maskrcnn_jax.parity.reference"]
    done = subprocess.run(
        command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True
    )
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
