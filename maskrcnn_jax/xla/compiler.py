"""Options for XLA when it compiles a whole model."""

import ctypes
import functools
import sys
from typing import Any

import jax
import jax.monitoring

# The name of this event in JAX; it occurs for programs found in the cache too.
COMPILED = "/jax/core/compile/backend_compile_duration"

# The same bits in every run: on a GPU, XLA must not add in any order, nor choose kernels by timing
# them. Compilers for CPUs and TPUs do neither and ignore the option.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True}

# Less memory on one CPU: XLA orders instructions for the least memory and keeps optimisation
# barriers. By default the pass named here drops them before XLA decides what to recompute.
SMALL_ON_CPU = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_disable_hlo_passes": "cse_barrier_expander",
}

# The host launches nearly all kernels of a program as one graph. By default loops, convolutions and
# conditions end a graph, and for each of them a GPU waits for the host.
GPU_GRAPHS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,"
    "DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE,CONDITIONAL"
}

# By default XLA copies the maps of all levels into one array, if one product with a common matrix
# can then replace several.
GPU_PRODUCTS = {"xla_gpu_dot_merger_threshold_mb": 0}


def options(*, deterministic: bool, small_on_cpu: bool, on_gpu: bool) -> dict[str, Any]:
    """Compiler options for `jax.jit`, without those that this version of XLA does not support."""
    found = dict(DETERMINISTIC) if deterministic else {}
    groups = (small_on_cpu, SMALL_ON_CPU), (on_gpu, GPU_GRAPHS), (on_gpu, GPU_PRODUCTS)
    for wanted, group in groups:
        if wanted and _are_understood(tuple(group.items())):
            found |= group
    return found


@functools.cache
def _are_understood(options: tuple[tuple[str, Any], ...]) -> bool:
    """Whether this version of XLA knows the options, and can compile a barrier with them."""
    try:
        program = lambda x: jax.lax.optimization_barrier(2 * x) + 1  # noqa: E731
        return int(jax.jit(program, compiler_options=dict(options))(3)) == 7
    except jax.errors.JaxRuntimeError:
        return False


def return_memory() -> None:
    """Returns free memory of this process to the operating system.

    glibc would keep it for each thread apart. Only our own commands call this: a library must not
    change the process of its user.
    """
    is_linux = sys.platform.startswith("linux")
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None) if is_linux else None:
        trim(0)


@functools.cache
def return_memory_after_compiling() -> None:
    """Makes each later compilation of this process return free memory to the operating system.

    Compiling leaves hundreds of megabytes in small pieces. See `return_memory`.
    """

    def after(event: str, *_: Any, **__: Any) -> None:
        if event == COMPILED:
            return_memory()

    jax.monitoring.register_event_duration_secs_listener(after)
