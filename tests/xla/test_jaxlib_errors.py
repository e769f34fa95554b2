"""A program that some versions of jaxlib compute wrongly is right with the workaround."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from maskrcnn_jax.xla import jaxlib_errors

# The sum of squares of rotated vectors, of which the last is (32768, 0, 0).
PROGRAM = """
{}
import jax, jax.numpy as jnp
x = jnp.arange(32769, dtype=jnp.float32)[:, None] * jnp.array([[1.0, 0.0, 0.0]])
print(float(jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x)[-1]))
"""


def run(first_line):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", PROGRAM.format(first_line)]
    return float(
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    )


def test_products_and_sums_on_the_cpu_are_right():
    assert run("import maskrcnn_jax") == 32768**2


@pytest.mark.skipif(
    importlib.metadata.version("jaxlib") not in jaxlib_errors.WITH_WRONG_YNNPACK,
    reason="this jaxlib is in order",
)
def test_they_would_not_be():
    assert run("") != 32768**2


@pytest.mark.parametrize(
    "version, flags, expected",
    [
        ("0.10.2", "", jaxlib_errors.YNNPACK),
        ("0.10.2", "--other=1", f"--other=1 {jaxlib_errors.YNNPACK}"),
        ("0.10.2", f"{jaxlib_errors.YNNPACK}dot", f"{jaxlib_errors.YNNPACK}dot"),
        ("0.12.0", "--other=1", "--other=1"),
    ],
)
def test_flags_are_added_where_they_are_needed_and_known(monkeypatch, version, flags, expected):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("XLA_FLAGS", flags)
    jaxlib_errors.avoid()
    assert os.environ["XLA_FLAGS"] == expected
