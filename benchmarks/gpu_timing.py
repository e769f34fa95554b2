"""How `benchmarks.gpu` takes the time of programs that an accelerator runs while the next one is already sent."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Row = dict[str, Any]
ROUNDS = 3


def seconds_each(run: Callable[[int], Any], repeats: int) -> float:
    """Of one of ``repeats`` calls that ``run`` sends off one after the other and awaits together; median of rounds.

    As in a loop of training, where nobody waits for a step either.
    """
    run(2)
    return statistics.median(_seconds(lambda: run(repeats)) / repeats for _ in range(ROUNDS))


def torch_seconds_each(step: Callable[[], None], repeats: int) -> float:
    """The same for torch."""
    import torch

    def run(count: int) -> None:
        for _ in range(count):
            step()
        torch.cuda.synchronize()

    return seconds_each(run, repeats)


def compile_for(function: Any, *arguments: Any) -> tuple[Any, Row]:
    """Compiles a jitted function for some arguments; says how long it took, and what XLA says of the program."""
    start = time.perf_counter()
    program = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    row = {"compile_seconds": seconds, "temporary_bytes": program.memory_analysis().temp_size_in_bytes}
    for name, property_name in (("xla_flops", "flops"), ("xla_bytes", "bytes accessed")):
        if program.cost_analysis().get(property_name, -1) >= 0:  # -1 where it contains what XLA cannot count.
            row[name] = program.cost_analysis()[property_name]
    return program, row


def matmul_rate() -> float:
    """Operations per second of a large bfloat16 matrix product."""
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
