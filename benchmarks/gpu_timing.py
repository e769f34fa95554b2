"""Compiles and times programs under asynchronous dispatch."""

import statistics
import time
from collections.abc import Callable, Mapping
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


def compile_for(
    function: Any, *arguments: Any, options: Mapping[str, Any] | None = None
) -> tuple[Any, Row]:
    """Compiles a jitted function for some arguments; returns the program and XLA's costs.

    Args:
        function: From `jax.jit`.
        arguments: Its arguments.
        options: Compiler options, beside those of the jitted function.
    """
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile(dict(options) if options else None)
    row = {"trace_seconds": traced - start, "compile_seconds": time.perf_counter() - traced}
    if memory := program.memory_analysis():
        row["temporary_bytes"] = memory.temp_size_in_bytes
    costs = program.cost_analysis() or {}
    for name, property_name in (("xla_flops", "flops"), ("xla_bytes", "bytes accessed")):
        if costs.get(property_name, -1) >= 0:  # -1: XLA cannot count a part.
            row[name] = costs[property_name]
    return program, row


def matmul_rate() -> float:
    """The operations per second of a large bfloat16 matrix product of random numbers.

    A card draws less power for products of constants, so it runs them at a higher clock.
    """
    side = 8192 if jax.default_backend() != "cpu" else 1024
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (side, side), jnp.bfloat16) for key in keys)
    multiply = jax.jit(jnp.matmul)

    def products(count: int) -> None:
        for _ in range(count):
            product = multiply(a, b)
        product.block_until_ready()

    return 2 * side**3 / seconds_each(products, 10)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
