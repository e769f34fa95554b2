"""Working memory that is freed and asked for again comes from the process, not from the kernel."""

import os
import subprocess
import sys

import pytest

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
def test_settings_of_the_user_stay():
    assert page_faults("import maskrcnn_jax", MALLOC_TRIM_THRESHOLD_="131072") > 0.9 * PAGES
