"""Starts `train.py` and `maskrcnn-jax` in processes, as a user does, with a small model."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Small programs compile for longer than they run.
QUICK_COMPILE = " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
TIMEOUT = 900  # Seconds; four processes on two busy cores took 456.

SMALL = {
    "num_steps": 3,
    "batch_size": 2,
    "log_every": 1,
    "save_every": 1,
    "evaluate_every": 2,
    "test_batch_size": 2,
    "data.shapes_image_size": 64,
    "data.shapes_num_val": 3,
    "data.buckets": "((64, 64),)",
    "data.test_buckets": "((64, 64),)",
    "data.short_sides": "(64,)",
    "data.max_long_side": 64,
    "data.test_short_side": 64,
    "data.test_max_long_side": 64,
    "model.backbone.stem_channels": 32,
    "model.fpn.channels": 32,
    "model.box_head.features": 32,
    "model.mask_head.channels": 32,
    "model.mask_head.num_convs": 1,
    "model.roi.num_samples": 16,
}


# An input of a ReLU may round to 1e-7 on one number of devices and to -1e-8 on another, which
# switches a gradient.
SMOOTH = """
import runpy, flax.linen
from maskrcnn_jax.modules import box_head, layers, mask_head, resnet, rpn
from maskrcnn_jax.modules.extents import zero_beyond
for module in (box_head, layers, mask_head, resnet, rpn):
    module.relu = lambda x, extent=None: zero_beyond(flax.linen.silu(x), extent)
runpy.run_path("train.py", run_name="__main__")
"""


def start(
    workdir,
    cache,
    *flags,
    config="configs/shapes.py",
    devices=1,
    largest_file=None,
    smooth=False,
    program=None,
    command=("train.py",),
    output=None,
    optimised=False,
    **overrides,
):
    """Starts one process.

    Args:
        cache: The folder of the compilation cache that the processes share.
        devices: The number of simulated devices.
        largest_file: The largest size of a file in KiB; larger writes fail, as on a full disk.
        smooth: Whether to train with smooth activations.
        program: Python code to run instead of the command.
        command: `train.py`, or the arguments of Python for `maskrcnn-jax train`.
        output: A file that gets the output and the errors; by default there are pipes.
        optimised: Whether XLA optimises as for a user; otherwise it compiles faster.
        overrides: Fields of the config, with ``__`` for dots.
    """
    settings = SMALL | {name.replace("__", "."): value for name, value in overrides.items()}
    if settings.get("model.mask_head", "") is None:  # A removed mask head has no fields to set.
        settings = {k: v for k, v in settings.items() if not k.startswith("model.mask_head.")}
    fields = [f"--config.{name}={value}" for name, value in settings.items()]
    program = SMOOTH if smooth else program
    command = [
        sys.executable,
        *(["-c", program] if program else command),
        f"--config={config}",
        f"--workdir={workdir}",
        *fields,
        *flags,
    ]
    if largest_file is not None:
        command = ["bash", "-c", f'ulimit -f {largest_file}; exec "$@"', "bash", *command]
    return open_process(command, cache, devices, output, optimised)


def start_command(cache, *arguments):
    """Starts `maskrcnn-jax` with these arguments, on one device."""
    return open_process([sys.executable, "-m", "maskrcnn_jax", *map(str, arguments)], cache, 1)


def open_process(command, cache, devices, output=None, optimised=False):
    """Starts a command with defaults as for a user; see `start`."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
        + ("" if optimised else QUICK_COMPILE),
        "MASKRCNN_JAX_CACHE": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # XLA's threads: by default one for each core or device, and they divide its sums.
        "NPROC": "2",
    }
    # Undoes the settings of the tests, so that defaults hold as for a user.
    environment.pop("JAX_ENABLE_COMPILATION_CACHE", None)
    pipes = {"stdout": output or subprocess.PIPE, "stderr": output or subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)


def start_together(count, workdir, cache, **overrides):
    """Starts processes that train one model."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = f"--coordinator=localhost:{port}", f"--num_processes={count}"
    return [start(workdir, cache, *common, f"--process_id={i}", **overrides) for i in range(count)]


def finish(process):
    """Waits for a process; returns its exit code and its output."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def log_of(workdir):
    """The entries of the log without the values that depend on the clock."""
    return [
        {name: value for name, value in entry.items() if name != "images_per_second"}
        for entry in entries_of(workdir)
    ]


def entries_of(workdir):
    """The entries of the log; a line that is being written is left out."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
