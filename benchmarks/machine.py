"""Measures the rates of the machine, to which the shares of all figures refer."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision")
PACKAGES += ("opencv-python-headless", "pycocotools")


class Limits(NamedTuple):
    """The rates of this machine with all cores."""

    # Operations per second of a float32 matrix product. A multiply-add counts as two operations.
    matmul: float
    copy: float  # Bytes read and written per second by a copy of an array larger than any cache.


def limits() -> Limits:
    """Measures the rates. The matrix product is that of the faster of jax and torch."""
    import jax
    import torch

    side = 3072
    a = np.random.default_rng(0).random((side, side), np.float32)
    multiply = jax.jit(lambda x: x @ x)
    on_device, tensor = jax.device_put(a), torch.from_numpy(a)
    by_jax = _median(lambda: multiply(on_device).block_until_ready())
    seconds = min(by_jax, _median(lambda: tensor @ tensor))
    large = torch.zeros(2**27)
    target = torch.empty_like(large)
    copy_seconds = _median(lambda: target.copy_(large))
    return Limits(2 * side**3 / seconds, 2 * large.nbytes / copy_seconds)


def name() -> str:
    """The processor and its number of cores, as a file name."""
    words = re.findall(r"[a-z0-9]+", _processor().lower())
    return "-".join([*words, str(os.cpu_count()), "cores"])


def describe() -> dict[str, Any]:
    """The hardware, the load and the versions of packages."""
    versions = {name: metadata.version(name) for name in PACKAGES if _is_installed(name)}
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        models = (line.split(":")[1].strip() for line in file if line.startswith("model name"))
        return next(models, "unknown")


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _median(run: Callable[[], Any], repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
