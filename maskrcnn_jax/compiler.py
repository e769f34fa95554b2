"""What XLA is told when it compiles a whole model."""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.monitoring
from jax.sharding import Mesh

COMPILED = "/jax/core/compile/backend_compile_duration"  # What jax calls this event, programs in the cache included.

# The same bits in every run: it forbids XLA to add in any order on a GPU, and to choose kernels by timing them.
# Compilers for CPUs and TPUs, which do neither in any case, take no notice.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True}

# Less memory on a CPU: arrays are computed in the order that needs the least, and optimization barriers hold. XLA would
# drop those (by the pass of this name) before it decides what to compute once more; see `modules.materialise`.
SMALL_ON_CPU = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def jit(deterministic: bool, mesh: Mesh | None = None) -> Callable[..., Any]:
    """`jax.jit` with the options that suit the devices of the mesh, or the default device."""
    options = DETERMINISTIC if deterministic else {}
    if is_one_cpu(mesh) and _understands_small():
        options = options | SMALL_ON_CPU
    _return_memory_after_compiling()
    return functools.partial(jax.jit, compiler_options=options) if options else jax.jit


def is_one_cpu(mesh: Mesh | None) -> bool:
    """Whether barriers are to hold: between them several devices could not add up all their gradients at once."""
    return platform(mesh) == "cpu" and (mesh is None or mesh.size == 1)


def platform(mesh: Mesh | None) -> str:
    """Of the devices of the mesh, or the default device: "cpu", "gpu" or "tpu"."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


@functools.cache
def _understands_small() -> bool:
    """Whether this version of XLA knows the options, and can run barriers; if not, programs take more memory."""
    try:
        probe = jax.jit(lambda x: jax.lax.optimization_barrier(2 * x) + 1, compiler_options=SMALL_ON_CPU)
        return int(probe(3)) == 7
    except jax.errors.JaxRuntimeError:
        return False


@functools.cache
def _return_memory_after_compiling() -> None:
    """Returns to the kernel what compiling a program leaves, or reading a compiled one.

    That is hundreds of megabytes in small pieces, which glibc would keep, and of no use to the program.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None

    def after(event: str, *_: Any, **__: Any) -> None:
        if event == COMPILED and trim:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(after)
