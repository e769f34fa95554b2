"""The names a user imports."""

import subprocess
import sys
from pathlib import Path

import pytest

import maskrcnn_jax


def test_every_public_name_can_be_imported():
    for name in maskrcnn_jax.__all__:
        assert getattr(maskrcnn_jax, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="MaskCNN"):
        maskrcnn_jax.MaskCNN  # noqa: B018


def test_importing_the_package_alone_imports_neither_jax_nor_flax():
    code = "import sys, maskrcnn_jax; assert not {'jax', 'flax'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["maskrcnn_jax", "maskrcnn_jax.cli.main"])
def test_the_version_by_the_package_as_a_program(module):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"maskrcnn-jax {maskrcnn_jax.__version__}\n"


def test_the_version_is_the_one_to_be_cited():
    citation = (Path(__file__).parents[1] / "CITATION.cff").read_text()
    assert f"\nversion: {maskrcnn_jax.__version__}\n" in citation
