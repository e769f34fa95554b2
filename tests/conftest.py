"""Settings and fixtures for all tests."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

# Eight devices. XLA compiles the small programs of the tests in half the time without its newer
# emitters of fusions, and in one thread: the tests themselves run in parallel.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)
# Keeps the tests out of the user's cache folder.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import flax.linen as nn  # noqa: E402  (flags must be set before jax starts)
import jax  # noqa: E402
import jax.monitoring  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from maskrcnn_jax.config import DetectionConfig
from maskrcnn_jax.model import MaskRCNN  # noqa: E402
from maskrcnn_jax.model_config import (
    BoxHeadConfig,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RoIConfig,
    RPNConfig,
)
from maskrcnn_jax.modules import box_head, layers, mask_head, resnet, rpn  # noqa: E402
from maskrcnn_jax.modules.extents import zero_beyond  # noqa: E402
from maskrcnn_jax.variables import variable_shapes  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# All processes of a test session share what took long to compile; the first one removes it.
COMPILED = "MASKRCNN_JAX_TESTS_COMPILED"
if COMPILED not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="maskrcnn_jax_tests_")
    os.environ[COMPILED] = compiled.name
jax.config.update("jax_compilation_cache_dir", os.environ[COMPILED])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_enable_compilation_cache", True)

# Tracing makes many small objects; looking through them all too often costs a tenth of the time.
gc.set_threshold(200_000, 50, 100)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the reference data; skips the test if there is none."""
    path = os.environ.get("MASKRCNN_JAX_SHARED")
    if not path:
        pytest.skip("MASKRCNN_JAX_SHARED does not name the folder with the reference data")
    return Path(path)


@pytest.fixture
def compilations() -> Iterator[list[float]]:
    """A list that gets an entry for each program that JAX compiles."""
    found: list[float] = []

    def count(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(count)
    yield found
    jax.monitoring.unregister_event_duration_listener(count)


# With several processes, the longest files start first, so that all processes end together.
LONGEST = ("test_train.py", "test_model.py", "test_golden.py", "test_docs_code.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Takes the thousands of tests, which stay alive, out of the collection of garbage."""
    gc.freeze()


def smooth_activations(patch: pytest.MonkeyPatch) -> None:
    """Replaces all ReLUs with a smooth function: rounding can flip a ReLU, and so a gradient."""

    def smooth(x: jax.Array, extent: jax.Array | None = None) -> jax.Array:
        return nn.silu(x) if extent is None else zero_beyond(nn.silu(x), extent)

    for module in (box_head, layers, mask_head, resnet, rpn):
        patch.setattr(module, "relu", smooth)


class TinyModel(NamedTuple):
    """A whole model that compiles in seconds, with random weights that detect objects in noise."""

    model: MaskRCNN
    variables: dict
    detect: Callable  # (variables, images, sizes, canvas=None, score_threshold=None) -> Detections.
    losses: Callable  # (variables, batch, key) -> losses, diagnostics.
    gradient: Callable  # (variables, batch, key) -> (loss, metrics), gradient by the parameters.


# Tests of a few images compile for longer than they run; less optimised code halves their time.
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    config = ModelConfig(
        num_classes=4,
        backbone=ResNetConfig(depth=18, stem_channels=32, norm="group"),
        fpn=FPNConfig(channels=32),
        rpn=RPNConfig(
            anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
            num_samples=32,
            num_candidates=64,
            num_proposals=64,
        ),
        roi=RoIConfig(num_samples=16),
        box_head=BoxHeadConfig(features=64),
        mask_head=MaskHeadConfig(channels=16, num_convs=1),
    )
    detection = DetectionConfig(num_candidates=48, num_proposals=48, num_detections=20)
    model = MaskRCNN(config, detection)

    def gradient(variables, batch, key):
        def loss(params):
            return model.apply({"params": params}, batch, key, method="loss")

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    quick = partial(jax.jit, compiler_options=QUICK_COMPILE)
    losses = quick(partial(model.apply, method="losses"))
    return TinyModel(model, random_variables(model), quick(model.apply), losses, quick(gradient))


def random_variables(model: MaskRCNN) -> dict:
    """Variables that give activations of order one; NumPy draws them without compilation."""
    rng = np.random.default_rng(1)

    def fill(path, x):
        name = path[-1].key
        if name == "scale":
            return np.ones(x.shape, np.float32)
        deviation = 0.1 if name == "bias" else (2 / np.prod(x.shape[:-1])) ** 0.5
        return (deviation * rng.normal(size=x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, variable_shapes(model.config))
