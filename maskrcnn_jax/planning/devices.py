"""Devices that programs are compiled for without having them."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from maskrcnn_jax.planning.chips import GPUS
from maskrcnn_jax.planning.cost import bundles

TOPOLOGIES = "v5e:2x2, v5e:16x16, v5p:2x2x2, v6e:4x4"

# These settings let libtpu compile without a TPU, in several processes at a time.
COMPILE_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# Without a card XLA cannot time kernels, and fails where it would choose one of Triton's.
GPU_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}

# The answers of the driver of an H100 or H200 to the questions of XLA. The versions belong into
# the first part: without them XLA keeps matrix products out of CUDA graphs.
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: {multiprocessors}  fpus_per_core: 128  clock_rate_ghz: 1.98  l2_cache_size: 52428800
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: 9 }}
  memory_bandwidth: {bandwidth:.0f}  device_memory_size: {memory}  name: "{kind}"
  driver_version: "13.0.0"  runtime_version: "13.0.0"  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.12.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{kind}"
"""


def topology(name: str, dump: Path | None = None) -> list[Any]:
    """The devices of a TPU slice, such as ``v5e:16x16``, to compile for. Needs libtpu only.

    Args:
        name: The slice.
        dump: A folder for what libtpu writes about the programs that this process compiles; the
            first call decides.

    Raises:
        ValueError: libtpu is not installed, or the slice is unknown.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("compiling for a TPU needs its compiler: pip install 'maskrcnn-jax[tpu]'")
    os.environ.update(COMPILE_ONLY | os.environ)
    if dump:
        flags = os.environ.get("LIBTPU_INIT_ARGS", "")
        os.environ["LIBTPU_INIT_ARGS"] = f"{flags} {' '.join(bundles.FLAGS)}{dump}"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except jax.errors.JaxRuntimeError as error:
        message = f"libtpu knows no topology {name!r}; some that it knows are {TOPOLOGIES}"
        raise ValueError(f"{message}: {error}") from error


def gpus(name: str, count: int) -> list[Any]:
    """NVIDIA GPUs to compile for, ``h100`` or ``h200``. Needs no card and no driver.

    The process needs the environment of `gpu_environment` from its start.

    Raises:
        ValueError: NVIDIA's compiler is not installed, or the card is unknown.
    """
    check_gpu(name)
    kind, gpu = next((kind, gpu) for kind, gpu in GPUS.items() if gpu.name == name)
    target = _TARGET.format(kind=kind, **gpu._asdict())
    description = topologies.get_topology_desc(
        platform="cuda", target_config=target, topology=f"1x1x{count}"
    )
    return description.devices


def check_gpu(name: str) -> None:
    """Raises ValueError if `gpus` cannot make such devices."""
    known = [gpu.name for gpu in GPUS.values()]
    if name not in known:
        raise ValueError(f"there is no GPU {name!r} to compile for, only {' and '.join(known)}")
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise ValueError(
            "compiling for an NVIDIA GPU needs its compiler: "
            "pip install 'maskrcnn-jax[gpu-compiler]'"
        )


def gpu_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that compiles for GPUs; jax reads it when it is imported."""
    flags = environment.get("XLA_FLAGS", "").split()
    needed = [f"--{name}={str(value).lower()}" for name, value in GPU_OPTIONS.items()]
    missing = [flag for flag in needed if flag not in flags]
    # Otherwise jax would look for a card.
    return dict(environment) | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*flags, *missing])}
