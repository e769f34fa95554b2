"""Imports run one way.

``xla < ops < modules, stages < model < training, detector < cli, train.py``; `MAY_IMPORT` says who
may import whom. A part is a file or a folder directly under the package.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "maskrcnn_jax"

GROUND = {"config", "model_config", "settings", "structures"}
STAGES = {"proposals", "detections", "targets", "losses", "diagnostics"}
NETWORK = GROUND | STAGES | {"model", "modules/", "ops/", "poolers", "roi_heads/", "variables"}
COMPUTED = NETWORK | {"execution", "sharding", "xla/"}
INPUTS = {"data/", "images", "resizing", "distributed", "config_check", "whole_files"}
INPUTS |= {"pasting", "coco_metrics"}
# These need each other: a detector reads weights and artifacts, is exported to an artifact, and
# detects window by window.
DETECTOR = {"artifacts/", "detector", "detector_inputs", "tiling/", "weights/", "presets/"}
DRAWING = {"drawing/", "visualize"}
TOOLS = {"parity/", "planning/", "report/", "serving/", "test_time_augmentation"}
TOOLS |= {"torchvision_models", "video"}

MAY_IMPORT = {
    # Part: the other parts that it may import.
    "xla/": set(),
    "settings": set(),
    "structures": set(),
    "model_config": {"settings"},
    "config": {"model_config", "settings"},
    "sharding": {"structures"},
    "execution": {"config", "sharding", "xla/"},
    # The network.
    "ops/": {"structures", "xla/"},
    "modules/": GROUND | {"execution", "ops/", "xla/"},
    "proposals": GROUND | {"ops/"},
    "detections": GROUND | {"ops/"},
    "targets": GROUND | {"ops/"},
    "losses": GROUND | {"ops/"},
    "diagnostics": GROUND | {"ops/"},
    "poolers": GROUND | {"ops/", "execution"},
    "roi_heads/": GROUND | STAGES | {"modules/", "ops/", "execution"},
    "model": GROUND
    | STAGES
    | {"modules/", "ops/", "poolers", "roi_heads/", "execution", "sharding"},
    "variables": {"model", "model_config", "settings"},
    "presets/": {"config", "model_config"},
    # Images, ground truth and processes; none of it knows the network.
    "images": {"image_files/"},
    "image_files/": set(),
    "resizing": {"ops/"},
    "video": set(),
    "distributed": set(),
    "whole_files": set(),
    "pasting": {"config", "structures"},
    "coco_metrics": {"pasting", "data/"},
    "config_check": {"config", "model_config", "settings"},
    "data/": GROUND | {"image_files/", "images", "resizing", "whole_files"},
    "drawing/": GROUND | INPUTS | {"visualize"},
    "visualize": {"drawing/", "images"},
    # Training, detection and evaluation run the network.
    "training": COMPUTED,
    "evaluation": COMPUTED | INPUTS,
    "runs/": COMPUTED | INPUTS | {"training", "evaluation"},
    "artifacts/": COMPUTED | INPUTS | DETECTOR,
    "detector_inputs": {"images"},
    "detector": COMPUTED | INPUTS | DETECTOR | {"runs/"},
    "tiling/": {"detector", "image_files/", "images", "ops/", "pasting", "resizing"},
    "weights/": COMPUTED | INPUTS | DETECTOR | {"runs/"},
    "planning/": COMPUTED | INPUTS | {"training"},
    "report/": COMPUTED | INPUTS | DRAWING | {"evaluation", "runs/"},
    "parity/": COMPUTED | INPUTS | {"training", "weights/", "presets/"},
    "serving/": {
        "detector",
        "detector_inputs",
        "image_files/",
        "images",
        "pasting",
        "resizing",
        "structures",
    },
    "test_time_augmentation": COMPUTED | INPUTS | {"detector"},
    "torchvision_models": COMPUTED | INPUTS | DETECTOR | {"training"},
    # The entry points.
    "cli/": COMPUTED | INPUTS | DETECTOR | DRAWING | TOOLS | {"training", "evaluation", "runs/"},
    "__init__": {"xla/"},  # Public names are imported when they are first used.
    "__main__": {"cli/"},
}
# Only the modules and the model own parameters. Of optax the network takes its losses alone.
WITHOUT = {
    "flax": {"xla/", "ops/", "poolers", "execution", "sharding"} | GROUND | STAGES,
    "optax": COMPUTED - {"losses"},
}


def part_of(path):
    """``ops/`` for a path below that folder, ``model`` for the file."""
    first = path.relative_to(PACKAGE).parts[0]
    return f"{first}/" if (PACKAGE / first).is_dir() else first.removesuffix(".py")


def imported_names(path):
    """The full name of everything that a file imports; imports in functions count too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_path(name):
    """The file or folder of the package that a name comes from, or None if it has no such file."""
    words = name.split(".")[1:]
    for count in range(len(words), 0, -1):
        path = PACKAGE.joinpath(*words[:count])
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if path.is_dir():
            return path if count == len(words) else None
    return None


def imported_parts(path):
    """The parts of the package that a file imports."""
    ours = {name for name in imported_names(path) if name.startswith("maskrcnn_jax.")}
    return {part_of(imported_path(name)) for name in ours if "__version__" not in name}


def files_of(part):
    return (
        sorted((PACKAGE / part).rglob("*.py")) if part.endswith("/") else [PACKAGE / f"{part}.py"]
    )


FILES = sorted(PACKAGE.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def test_the_table_has_every_part():
    assert {part_of(path) for path in FILES} == set(MAY_IMPORT)


@every_file
def test_imports_name_files_that_exist(path):
    public = {"maskrcnn_jax.__version__"}
    ours = {name for name in imported_names(path) if name.startswith("maskrcnn_jax.")} - public
    assert {name for name in ours if imported_path(name) is None} == set()


@every_file
def test_imports_run_one_way(path):
    part = part_of(path)
    assert imported_parts(path) - {part} - MAY_IMPORT[part] == set()


@pytest.mark.parametrize("package", WITHOUT)
def test_who_does_without(package):
    for part in WITHOUT[package]:
        for path in files_of(part):
            assert package not in {name.partition(".")[0] for name in imported_names(path)}, path


def test_only_the_command_line_imports_plans_and_prices():
    assert {part for part, others in MAY_IMPORT.items() if "planning/" in others} == {"cli/"}


def test_prices_know_no_network():
    readers = sorted((PACKAGE / "planning" / "cost").glob("*.py"))
    assert len(readers) > 5
    assert [path for path in readers if not imported_parts(path) <= {"planning/"}] == []


def test_only_train_imports_the_command_line():
    assert {part for part, others in MAY_IMPORT.items() if "cli/" in others} == {"__main__"}
    assert "cli/" in imported_parts(ROOT / "train.py")
