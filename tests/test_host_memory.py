"""Working memory that is freed and asked for again comes from the process, not from the kernel."""

import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from maskrcnn_jax import host_memory

PROGRAM = """
import resource
{}
import jax, jax.numpy as jnp
run = jax.jit(lambda x: jnp.tanh(x[:, :50] @ x[:50]) * x)
x, asked = jnp.ones((4000, 4000)), []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(x).block_until_ready()
    asked.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(asked[15:]) // 15)
"""
PAGES = 4000 * 4000 * 4 // 4096  # Of a matrix; each run needs one or two.


def page_faults(first_line, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM.format(first_line)]
    run = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_the_kernel_is_not_asked_again():
    assert page_faults("import maskrcnn_jax") < PAGES / 2 < 0.9 * PAGES < page_faults("")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
@pytest.mark.parametrize("setting", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"MASKRCNN_JAX_KEEP_MEMORY": "0"}])
def test_settings_of_the_user_stay(setting):
    assert page_faults("import maskrcnn_jax", **setting) > 0.9 * PAGES


def test_zeros_lie_outside_the_memory_that_is_kept():
    array = host_memory.zeros((1000, 1000))
    assert array.dtype == np.float32 and not array.any()
    array[5] = 1  # Writable.
    assert array.sum() == 1000
    assert isinstance(array.base.base, memoryview | mmap.mmap)


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0), ()])
def test_zeros_of_any_shape(shape):
    assert host_memory.zeros(shape).shape == shape


def test_zeros_that_no_machine_has():
    with pytest.raises(MemoryError, match=r"\(1000000, 1000000, 1000\)"):
        host_memory.zeros((10**6, 10**6, 1000))
