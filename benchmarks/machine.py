"""What the machine itself can do: the limits that every figure is a share of."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision", "opencv-python-headless", "pycocotools")


class Limits(NamedTuple):
    """Rates of this machine, with all its cores."""

    matmul: float  # Operations per second of a float32 matrix product; a multiplication and an addition are two.
    copy: float  # Bytes per second read and written by copying an array that no cache holds.


def limits() -> Limits:
    """Measures both; the matrix product by whichever of jax and torch is faster."""
    import jax
    import torch

    side = 3072
    a = np.random.default_rng(0).random((side, side), np.float32)
    multiply = jax.jit(lambda x: x @ x)
    on_device, tensor = jax.device_put(a), torch.from_numpy(a)
    seconds = min(_median(lambda: multiply(on_device).block_until_ready()), _median(lambda: tensor @ tensor))
    large = torch.zeros(2**27)
    target = torch.empty_like(large)
    return Limits(2 * side**3 / seconds, 2 * large.nbytes / _median(lambda: target.copy_(large)))


def name() -> str:
    """The processor and its cores, fit for a file name."""
    words = re.findall(r"[a-z0-9]+", _processor().lower())
    return "-".join([*words, str(os.cpu_count()), "cores"])


def describe() -> dict[str, Any]:
    """Hardware, load and versions."""
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
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")


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
