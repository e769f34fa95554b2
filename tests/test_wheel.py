"""The wheel has every file of the package, and its commands run outside the checkout.

The commands run in a new environment with the packages that the wheel requires and no others;
`make test-wheel` runs these tests. The variable ``WHEEL_PYTHON`` names the Python of the
environment, and ``WHEEL_CONSTRAINTS`` a file of versions, `/dev/null` for the newest.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli import main
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.weights import saving, torchvision
from tests.markdown import ROOT
from tests.test_docs_code import random_state

pytest.importorskip("hatchling", reason="hatchling builds wheels")
PACKAGE = ROOT / "maskrcnn_jax"
CONFIG = """
from maskrcnn_jax.config import Config

def get_config():
    config = Config(batch_size=1, test_batch_size=1)
    config.data.train_images = config.data.val_images = "photos"
    config.data.train_annotations = config.data.val_annotations = "annotations.json"
    config.data.short_sides, config.data.max_long_side = (64,), 96
    config.data.test_short_side, config.data.test_max_long_side = 64, 96
    config.data.buckets = config.data.test_buckets = ((64, 96),)
    model = config.model
    model.num_classes, model.backbone.depth, model.backbone.stem_channels = 7, 18, 4
    model.fpn.channels, model.box_head.features, model.mask_head.channels = 8, 16, 8
    config.detection.num_detections = 10
    return config
"""
ANNOTATED = "--images photos --annotations annotations.json"
RUNS = [  # In order: a command, its arguments, and a file that it writes, if any.
    ("data browse", f"{ANNOTATED} --output look", "look/page-001.png"),
    ("doctor", "", None),
    ("data check", ANNOTATED, None),
    ("data statistics", f"{ANNOTATED} --report statistics.html", "statistics.html"),
    ("data convert", "labelme converted.json --images photos", "converted.json"),
    ("data split", f"{ANNOTATED} --fraction 0.5 --output divided", "divided/val.json"),
    ("data prepare", f"{ANNOTATED} --split train --output prepared", "prepared"),
    ("plan", "--config tiny.py --devices 1 --output plan.json", "plan.json"),
    ("train", "--config tiny.py --workdir run --config.num_steps=1", "run/report.html"),
    ("push", "run me/tiny --dry-run", None),
    ("convert", "tiny.npz copy.npz", "copy.npz"),
    ("export", "--weights tiny.npz artifact.npz", "artifact.npz"),
    (
        "predict",
        "photos --weights tiny.npz --output found --score-threshold 0.1",
        "found/detections.json",
    ),
    (
        "predict",
        "photos --weights tiny.npz --output measured --formats geojson,labels,csv",
        "measured/measurements.csv",
    ),
    (
        "predict",
        "photos --artifact artifact.npz --output same --score-threshold 0.1",
        "same/detections.json",
    ),
    (
        "evaluate",
        "--weights tiny.npz --config tiny.py --output . --report pages/report.html",
        "pages/report.html",
    ),
]
NEED_MORE = {"parity", "serve"}  # Packages that the wheel does not require.


def build(target, source, folder):
    """Builds an archive of the sources in a folder; returns its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target]
    subprocess.run([*command, "--directory", folder], cwd=source, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_every_file_of_the_package_is_in_it_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "maskrcnn-jax = maskrcnn_jax.__main__:main" in archive.read(entry_points).decode()
    files = [
        path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert names == {str(path.relative_to(ROOT)) for path in files}


@pytest.mark.wheel
def test_the_source_archive_makes_the_same_wheel(wheel, tmp_path):
    for name in ("source", "unpacked", "wheel"):
        (tmp_path / name).mkdir()
    with tarfile.open(build("sdist", ROOT, tmp_path / "source")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = build("wheel", source, tmp_path / "wheel")
    assert again.name == wheel.name and again.read_bytes() == wheel.read_bytes()


def commands(parser):
    """The commands of a parser, with their actions."""
    choices = [x.choices for x in parser._actions if isinstance(x, argparse._SubParsersAction)]
    for name, parser_of_command in choices[0].items() if choices else ():
        actions = list(commands(parser_of_command))
        yield from (f"{name} {action}" for action in actions) if actions else [name]


def test_all_commands_are_tried_below():
    assert {command for command, *_ in RUNS} | NEED_MORE == set(commands(main._parser()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The working directory of the commands, outside the checkout."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def installed(wheel, folder, tmp_path_factory):
    """Runs a program in the environment of the wheel; returns the output."""
    environment = tmp_path_factory.mktemp("environment")
    python = os.environ.get("WHEEL_PYTHON") or sys.executable
    constraints = os.path.abspath(os.environ.get("WHEEL_CONSTRAINTS") or ROOT / "constraints.txt")
    subprocess.run([python, "-m", "venv", environment], check=True)
    # Without --compile: the commands import a fraction of the modules, and compile these.
    install = [environment / "bin" / "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*install, "-c", constraints, wheel], check=True, cwd=folder)
    variables = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "MASKRCNN_JAX_CACHE": str(folder / "cache"),
    }
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        variables.pop(name, None)

    def run(program: str, *arguments: str, code: int = 0) -> str:
        command = [environment / "bin" / program, *arguments]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        print(done.stdout)  # Shown if the test fails, and by -rP.
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert run("python", "-c", "import maskrcnn_jax; print(maskrcnn_jax.__file__)").startswith(
        str(environment)
    )
    return run


@pytest.fixture(scope="module")
def tiny_data(folder):
    """The folder with two annotated photographs, and weights of a tiny model."""
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    square = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    square["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]
    images, objects = [], []
    for i in (1, 2):
        Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).save(
            folder / "photos" / f"{i}.png"
        )
        images.append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 80})
        objects.append(square | {"id": i, "image_id": i})
    categories = Categories.numbered(6)
    content = {"images": images, "annotations": objects, "categories": categories.to_json()}
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "labelme").mkdir()
    points = [[5, 5], [25, 5], [25, 25], [5, 25]]
    shape = {"label": "square", "points": points, "shape_type": "polygon"}
    labelled = {"imagePath": "1.png", "imageHeight": 60, "imageWidth": 80, "shapes": [shape]}
    (folder / "labelme" / "1.json").write_text(json.dumps(labelled))
    (folder / "tiny.py").write_text(CONFIG)
    names: dict = {}
    exec(CONFIG, names)
    config: Config = names["get_config"]()
    variables = torchvision.from_state_dict(random_state(config.model), config.model)
    saving.save(folder / "tiny.npz", config, variables, categories)
    return folder


@pytest.mark.wheel
@pytest.mark.parametrize(
    ("command", "arguments", "written"), RUNS, ids=[f"{run[0]} {run[2]}" for run in RUNS]
)
def test_a_command_runs(installed, tiny_data, command, arguments, written):
    assert written is None or not (tiny_data / written).exists()
    installed("maskrcnn-jax", *command.split(), *arguments.split())
    assert written is None or (tiny_data / written).exists()


@pytest.mark.wheel
def test_the_artifact_finds_what_the_weights_find(tiny_data):
    found, same = (
        json.loads((tiny_data / name / "detections.json").read_text()) for name in ("found", "same")
    )
    assert len(found) > 3
    for a, b in zip(same, found, strict=True):
        assert a["category_id"] == b["category_id"]
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.05)


@pytest.mark.wheel
def test_what_needs_torch_says_so(installed, tiny_data):
    assert "torch" in installed("maskrcnn-jax", "parity", "photos/1.png", "--random", "v1", code=2)


@pytest.mark.wheel
def test_what_needs_a_server_says_so(installed, tiny_data):
    told = installed("maskrcnn-jax", "serve", "--weights", "tiny.npz", code=2)
    assert "pip install 'maskrcnn-jax[serve]'" in told


@pytest.mark.wheel
@pytest.mark.parametrize("command", sorted({command for command, *_ in RUNS} | NEED_MORE))
def test_the_help_of_every_command(installed, command):
    assert f"maskrcnn-jax {command}" in installed("maskrcnn-jax", *command.split(), "--help")


@pytest.mark.wheel
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
    assert len(installed("python", "-c", code).split()) > 80
