"""Errors of jaxlib that make numbers wrong, and how this program keeps clear of them."""

import importlib.metadata
import os

# On CPUs, these versions hand matrix products, sums and convolutions to YNNPACK, with results that are silently wrong
# at times: https://github.com/jax-ml/jax/issues/39103. XLA's own kernels are about as fast here.
WITH_WRONG_YNNPACK = ("0.10.2", "0.11.0")
YNNPACK = "--xla_cpu_experimental_ynn_fusion_type="  # A list of what it may do; here, nothing.


def avoid() -> None:
    """Adds to XLA_FLAGS, which XLA reads when a process compiles its first program; what the user set there stays."""
    flags = os.environ.get("XLA_FLAGS", "")
    if importlib.metadata.version("jaxlib") in WITH_WRONG_YNNPACK and YNNPACK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {YNNPACK}".strip()
