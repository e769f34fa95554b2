"""Settings and fixtures for all tests."""

import os
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax  # noqa: E402  (the flag must be set before jax starts)
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference data, or a skip where there is none."""
    path = os.environ.get("MASKRCNN_JAX_SHARED")
    if not path:
        pytest.skip("MASKRCNN_JAX_SHARED does not name the folder with the reference data")
    return Path(path)
