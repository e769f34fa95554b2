"""Only `execution.choose` asks for the platform, and only our commands change their process."""

import ast
from pathlib import Path

import jax
import jax.monitoring
import optax
import pytest

from maskrcnn_jax import execution, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.xla import compiler

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "maskrcnn_jax"
SOURCES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "train.py"]


def names(path):
    """All names and attributes in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


def users_of(*wanted):
    found = {path for path in SOURCES for name in names(path) if name in wanted}
    return {str(path.relative_to(ROOT)) for path in found}


def test_nobody_reads_the_default_backend():
    assert users_of("default_backend", "get_backend") == set()


def test_only_execution_asks_a_device_for_its_platform():
    """`planning` reads the platform for the memory of a device, and `doctor` prints it."""
    others = ("planning/plan.py", "xla/compiler.py", "cli/doctor.py")
    users = users_of("platform") - {f"maskrcnn_jax/{name}" for name in others}
    assert users == {"maskrcnn_jax/execution.py"}


def test_only_commands_return_memory_after_compiling():
    users = users_of("return_memory_after_compiling", "return_memory")
    users.remove("maskrcnn_jax/xla/compiler.py")
    assert "maskrcnn_jax/cli/training_loop.py" in users
    assert all(user.startswith("maskrcnn_jax/cli/") for user in users)


def test_the_library_registers_no_listener(monkeypatch):
    def fail(*_):
        pytest.fail("a listener was registered")

    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", fail)
    compiler.return_memory_after_compiling.cache_clear()
    config = Config()
    model = MaskRCNN(config.model, config.detection, execution.choose(config.execution))
    Detector(model, {}, Categories.numbered(80))
    training.compile_step(model, optax.sgd(0.1), config)
    assert model.run.jit(lambda x: 2 * x)(1.0) == 2
    with pytest.raises(pytest.fail.Exception):
        compiler.return_memory_after_compiling()
