"""Times programs under asynchronous dispatch."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Row = dict[str, Any]
ROUNDS = 3


def seconds_each(run: Callable[[int], Any], repeats: int) -> float:
    """The seconds of one call: the median over rounds.

    Args:
        run: Dispatches a number of calls in sequence and waits for the last one, as a training
            loop does.
        repeats: The number of calls in a round.
    """
    run(2)
    return statistics.median(_seconds(lambda: run(repeats)) / repeats for _ in range(ROUNDS))


def torch_seconds_each(step: Callable[[], None], repeats: int) -> float:
    """`seconds_each` for torch."""
    import torch

    def run(count: int) -> None:
        for _ in range(count):
            step()
        torch.cuda.synchronize()

    return seconds_each(run, repeats)


def compile_for(function: Any, *arguments: Any) -> tuple[Any, Row]:
    """Compiles a jitted function for some arguments; returns the program and XLA's costs."""
    start = time.perf_counter()
    program = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    row = {
        "compile_seconds": seconds,
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    }
    costs = program.cost_analysis()
    for name, property_name in (("xla_flops", "flops"), ("xla_bytes", "bytes accessed")):
        if costs.get(property_name, -1) >= 0:  # -1: XLA cannot count a part.
            row[name] = costs[property_name]
    return program, row


def matmul_rate() -> float:
    """The operations per second of a large bfloat16 matrix product."""
    side = 8192 if jax.default_backend() != "cpu" else 1024
    a = jnp.ones((side, side), jnp.bfloat16)
    multiply = jax.jit(lambda x: x @ x)

    def products(count: int) -> None:
        for _ in range(count):
            product = multiply(a)
        product.block_until_ready()

    return 2 * side**3 / seconds_each(products, 10)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
