"""Settings and fixtures for all tests."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # Commands leave nothing in the user's cache folder.

import flax.linen as nn  # noqa: E402  (flags must be set before jax starts)
import jax  # noqa: E402
import jax.monitoring  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from maskrcnn_jax.config import ModelConfig, RPNConfig  # noqa: E402
from maskrcnn_jax.model import MaskRCNN  # noqa: E402
from maskrcnn_jax.modules import heads, resnet  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference data, or a skip where there is none."""
    path = os.environ.get("MASKRCNN_JAX_SHARED")
    if not path:
        pytest.skip("MASKRCNN_JAX_SHARED does not name the folder with the reference data")
    return Path(path)


@pytest.fixture
def compilations() -> Iterator[list[float]]:
    """Grows by an entry for each program that jax compiles."""
    found: list[float] = []

    def count(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(count)
    yield found
    jax.monitoring.unregister_event_duration_listener(count)


def smooth_activations(patch: pytest.MonkeyPatch) -> None:
    """Activations without a kink, in all layers: rounding lets single ReLUs flip."""
    for module in (heads, resnet):
        patch.setattr(module, "relu", nn.silu)


class TinyModel(NamedTuple):
    """A whole model small enough to compile in seconds, with random weights that find objects in noise."""

    model: MaskRCNN
    variables: dict
    detect: Callable  # (variables, images, sizes, canvas=None, score_threshold=None) -> Detections.
    losses: Callable  # (variables, batch, key) -> losses, diagnostics.
    gradient: Callable  # (variables, batch, key) -> (loss, metrics), gradient by the parameters.


# Tests of a few images compile for longer than they run: code that is less optimised is ready in half the time.
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    config = ModelConfig(num_classes=4, depth=18, norm="group", fpn_channels=32, box_head_features=64)
    config.mask_head_channels, config.mask_head_convs = 16, 1
    config.rpn = RPNConfig(anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0), num_samples=32)
    config.rpn.train_num_candidates = config.rpn.train_num_proposals = 64
    config.rpn.test_num_candidates = config.rpn.test_num_proposals = 48
    config.roi.num_samples = 16
    config.detection.num_detections = 20
    model = MaskRCNN(config)

    def gradient(variables, batch, key):
        def loss(params):
            return model.apply({"params": params}, batch, key, method="loss")

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    quick = partial(jax.jit, compiler_options=QUICK_COMPILE)
    losses = quick(partial(model.apply, method="losses"))
    return TinyModel(model, random_variables(model), quick(model.apply), losses, quick(gradient))


def random_variables(model: MaskRCNN) -> dict:
    """Activations of order one in every layer, drawn by NumPy: initialisers would have to be compiled."""
    rng = np.random.default_rng(0)

    def fill(path, x):
        name = path[-1].key
        if name == "scale":
            return np.ones(x.shape, np.float32)
        deviation = 0.1 if name == "bias" else (2 / np.prod(x.shape[:-1])) ** 0.5
        return (deviation * rng.normal(size=x.shape)).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.full((1, 2), 32))
    return jax.tree_util.tree_map_with_path(fill, shapes)
