"""Compiler options: less memory on one CPU, and the same bits in every run."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.execution import Execution
from maskrcnn_jax.modules.layers import Conv, relu
from maskrcnn_jax.modules.norms import FrozenBatchNorm
from maskrcnn_jax.xla import compiler


def test_xla_is_told_what_determinism_needs():
    # XLA refuses names that it does not know; it knows this one on every platform.
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(jnp.sin, compiler_options={"xla_gpu_deterministic": True})(1.0)
    assert list(compiler.DETERMINISTIC) == ["xla_gpu_deterministic_ops"]
    assert Execution(deterministic=True).jit(jnp.sin)(0.0) == 0


def test_a_gradient_takes_less_memory_and_is_the_same():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 64, 64)), jnp.float32)
    convs, norm = [Conv(64, 1), Conv(64, 3), Conv(64, 1), Conv(64, 3)], FrozenBatchNorm()
    params = [conv.init(jax.random.key(i), x) for i, conv in enumerate(convs)]
    constants = norm.init(jax.random.key(0), x)

    def loss(params):
        y = x
        for conv, of_conv in zip(convs, params, strict=True):
            y = relu(norm.apply(constants, conv.apply(of_conv, y)))
        return (y**2).sum()

    programs = [
        jit(jax.grad(loss)).lower(params).compile()
        for jit in (jax.jit, Execution(small_on_cpu=True).jit)
    ]
    plain, small = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert small < 0.75 * plain
    expected, gradient = (program(params) for program in programs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2), gradient, expected
    )


@pytest.mark.parametrize(
    "group, name",
    [("SMALL_ON_CPU", "small_on_cpu"), ("GPU_GRAPHS", "on_gpu"), ("GPU_PRODUCTS", "on_gpu")],
)
def test_options_that_xla_does_not_know_are_left_out(monkeypatch, group, name):
    wanted = {"deterministic": False, "small_on_cpu": False, "on_gpu": False, name: True}
    unknown, whole = getattr(compiler, group), compiler.options(**wanted)
    assert unknown.items() <= whole.items()
    monkeypatch.setattr(compiler, group, {"xla_of_another_version": "yes"})
    assert compiler.options(**wanted) == {k: v for k, v in whole.items() if k not in unknown}


def test_memory_is_returned_after_each_compilation(monkeypatch):
    trimmed = []
    monkeypatch.setattr(
        compiler.ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=trimmed.append)
    )
    compiler.return_memory_after_compiling.__wrapped__()
    double = jax.jit(lambda x: 2 * x)
    double(1.0)
    assert trimmed
    count = len(trimmed)
    double(2.0)
    assert len(trimmed) == count


def test_memory_is_returned_where_the_system_can(monkeypatch):
    trimmed = []
    libraries = iter([SimpleNamespace(malloc_trim=trimmed.append), SimpleNamespace()])
    monkeypatch.setattr(compiler.ctypes, "CDLL", lambda _: next(libraries))
    compiler.return_memory()
    compiler.return_memory()
    assert trimmed == [0]
