"""A workaround for an error of jaxlib that makes numbers wrong."""

import importlib.metadata
import os

# On CPUs, these versions compute products, sums and convolutions with YNNPACK, whose results are
# sometimes wrong without an error: https://github.com/jax-ml/jax/issues/39103.
# XLA's own kernels are about as fast for this model.
WITH_WRONG_YNNPACK = ("0.10.2", "0.11.0")
# The operations that YNNPACK may compute: none.
YNNPACK = "--xla_cpu_experimental_ynn_fusion_type="


def avoid() -> None:
    """Turns YNNPACK off in XLA_FLAGS, unless the user has set the same flag there.

    XLA reads XLA_FLAGS when a process compiles its first program.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if importlib.metadata.version("jaxlib") in WITH_WRONG_YNNPACK and YNNPACK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {YNNPACK}".strip()


def avoided() -> bool:
    """Whether this jaxlib has no such error, or XLA_FLAGS turn YNNPACK off."""
    has_error = importlib.metadata.version("jaxlib") in WITH_WRONG_YNNPACK
    return not has_error or YNNPACK in os.environ.get("XLA_FLAGS", "").split()
