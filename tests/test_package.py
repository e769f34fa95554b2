"""The public names, and the declared dependencies."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib

import pytest

import maskrcnn_jax
from tests.markdown import ROOT
from tests.test_layering import imported_names

# The packages of modules with other names.
PACKAGES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-python-headless",
    "faster_coco_eval": "faster-coco-eval",
    "google": "protobuf",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
    "yaml": "pyyaml",
}
NEEDED_BY_OTHERS = {"flatbuffers", "importlib_resources"}  # See pyproject.toml.
# `maskrcnn-jax parity` compares with these; users install what they compare with.
PEERS = {"detectron2", "mmcv", "mmdet", "mmengine"}


def test_every_public_name_can_be_imported():
    for name in maskrcnn_jax.__all__:
        assert getattr(maskrcnn_jax, name).__name__ == name


def test_type_checkers_see_the_same_names():
    stub = ast.parse((ROOT / "maskrcnn_jax" / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    places = {alias.asname: node.module for node in imports for alias in node.names}
    assert sorted(places) == maskrcnn_jax.__all__
    for name, module in places.items():
        assert getattr(importlib.import_module(module), name) is getattr(maskrcnn_jax, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="MaskCNN"):
        maskrcnn_jax.MaskCNN  # noqa: B018


def test_importing_the_package_alone_imports_neither_jax_nor_flax():
    code = (
        "import sys, maskrcnn_jax; "
        "assert not {'jax', 'flax'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_by_the_package_as_a_program():
    command = [sys.executable, "-m", "maskrcnn_jax", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"maskrcnn-jax {maskrcnn_jax.__version__}\n"


def test_the_version_is_the_one_to_be_cited():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {maskrcnn_jax.__version__}\n" in citation


def test_packages_that_are_imported_are_declared_and_no_others():
    """Packages that others install today may be missing tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (
        project["optional-dependencies"][name]
        for name in ("fast", "hub", "parity", "serve", "tiff", "video")
    )
    needed, optional = names(project["dependencies"]), names(sum(extras, []))
    files = [ROOT / "train.py", *(ROOT / "maskrcnn_jax").rglob("*.py")]
    modules = {name.partition(".")[0] for path in files for name in imported_names(path)}
    packages = {PACKAGES.get(m, m) for m in modules - {"maskrcnn_jax"} - sys.stdlib_module_names}
    assert packages - optional - PEERS == needed - NEEDED_BY_OTHERS


def names(requirements):
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
