"""Imports run one way: ops know nothing, stages know ops, modules own parameters, the model knows all three."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "maskrcnn_jax"
OPS = sorted(PACKAGE.glob("ops/*.py"))
MODULES = sorted(PACKAGE.glob("modules/*.py"))
STAGES = [PACKAGE / f"{name}.py" for name in ("proposals", "detections", "targets", "losses", "diagnostics")]
STAGE_NAMES = {f"maskrcnn_jax.{path.stem}" for path in STAGES}
GROUND = [PACKAGE / "config.py", PACKAGE / "structures.py"]


def imports(path):
    """Every module a file imports, by full name; names imported from a package count as its modules too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports_any(path, names):
    return {found for found in imports(path) for name in names if found == name or found.startswith(f"{name}.")}


def test_the_files_are_there():
    assert len(OPS) > 5 and len(MODULES) > 4 and all(path.exists() for path in STAGES + GROUND)


@pytest.mark.parametrize("path", OPS, ids=lambda path: path.stem)
def test_ops_know_only_ops(path):
    ours = imports_any(path, ["maskrcnn_jax"])
    assert {name for name in ours if not name.startswith("maskrcnn_jax.ops")} == set()
    assert not imports_any(path, ["flax", "optax"])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_know_only_modules(path):
    ours = imports_any(path, ["maskrcnn_jax"])
    assert {name for name in ours if not name.startswith("maskrcnn_jax.modules")} == set()


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_stages_know_neither_each_other_nor_the_network(path):
    others = STAGE_NAMES - {f"maskrcnn_jax.{path.stem}"}
    assert not imports_any(path, [*others, "flax", "maskrcnn_jax.model", "maskrcnn_jax.modules"])


@pytest.mark.parametrize("path", GROUND, ids=lambda path: path.stem)
def test_config_and_structures_stand_on_nothing_of_ours(path):
    assert not imports_any(path, ["maskrcnn_jax", "flax", "optax"])


def test_the_model_knows_no_training():
    above = ["training", "checkpoints", "evaluation", "detector", "data", "cli", "images", "visualize", "weights"]
    assert not imports_any(PACKAGE / "model.py", [f"maskrcnn_jax.{name}" for name in above])
