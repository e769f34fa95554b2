"""The same bits in every run: what XLA has to be told for it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

# It forbids XLA to add in any order on a GPU, and to choose kernels by timing them. Compilers for CPUs and TPUs, which
# do neither in any case, take no notice.
OPTIONS = {"xla_gpu_deterministic_ops": True}


def jit(deterministic: bool) -> Callable[..., Any]:
    """`jax.jit`, or the same with the compiler's options for equal bits."""
    return partial(jax.jit, compiler_options=OPTIONS) if deterministic else jax.jit
