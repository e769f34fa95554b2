"""The wheel built from this tree: it has every file of the package, and its commands run outside the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli.main import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.weights import saving, torchvision
from tests.markdown import ROOT
from tests.test_docs_code import random_state

pytest.importorskip("hatchling", reason="hatchling builds wheels")
PACKAGE = ROOT / "maskrcnn_jax"
COMMANDS = ("predict", "evaluate", "convert", "export", "parity", "plan", "data browse", "data prepare")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_every_file_of_the_package_is_in_it_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "maskrcnn-jax = maskrcnn_jax.cli.main:main" in archive.read(entry_points).decode()
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {str(path.relative_to(ROOT)) for path in files}


def test_all_commands_are_tried_below(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = {
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ") and line[4] != " "
    }
    assert {command.split()[0] for command in COMMANDS} == listed


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs the installed command; its dependencies are those that are there, the package only the wheel's."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(command, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(folder), "XLA_FLAGS": "", "MASKRCNN_JAX_CACHE": str(folder / "cache")}

    def run(*command: str | Path, program: str = "bin/maskrcnn-jax") -> str:
        start = [folder / program] if program else [sys.executable, "-c"]
        done = subprocess.run([*start, *command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("import maskrcnn_jax; print(maskrcnn_jax.__file__)", program="").startswith(str(folder))
    return run


@pytest.mark.slow
def test_the_help_of_every_command(installed):
    for command in COMMANDS:
        assert f"maskrcnn-jax {command}" in installed(*command.split(), "--help")


@pytest.mark.slow
def test_every_module_can_be_imported(installed):
    code = """
import importlib, pkgutil, maskrcnn_jax
for module in pkgutil.walk_packages(maskrcnn_jax.__path__, "maskrcnn_jax."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        assert "pip install 'maskrcnn-jax[" in str(error)  # An extra that is not installed.
    print(module.name)
"""
    assert len(installed(code, program="").split()) > 80


@pytest.mark.slow
def test_a_photo_through_weights_and_through_an_artifact(installed, tmp_path):
    config = Config()
    config.model.num_classes, config.model.depth, config.model.stem_channels = 7, 18, 4
    config.model.fpn_channels, config.model.box_head_features, config.model.mask_head_channels = 8, 16, 8
    config.model.detection.num_detections = 10
    config.data.test_short_side, config.data.test_max_long_side, config.data.test_buckets = 64, 96, ((64, 96),)
    variables = torchvision.from_state_dict(random_state(config.model), config.model)
    saving.save(tmp_path / "tiny.npz", config, variables, None)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    installed("export", "--weights", tmp_path / "tiny.npz", tmp_path / "artifact.npz")
    for kind, file in {"--weights": "tiny.npz", "--artifact": "artifact.npz"}.items():
        options = "--output", tmp_path / kind, "--score-threshold", "0.1"
        installed("predict", tmp_path / "photo.jpg", kind, tmp_path / file, *options)
    weights, artifact = (
        json.loads((tmp_path / kind / "detections.json").read_text()) for kind in ("--weights", "--artifact")
    )
    assert len(weights) > 3
    for a, b in zip(artifact, weights, strict=True):
        assert a["category_id"] == b["category_id"]
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.05)
