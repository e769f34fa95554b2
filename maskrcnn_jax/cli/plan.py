"""`maskrcnn-jax plan`: compiles a program for given devices, and prints its cost."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from maskrcnn_jax import config_check, whole_files
from maskrcnn_jax.cli import config_file, cost_tables, outputs
from maskrcnn_jax.cli.console import Console
from maskrcnn_jax.config import Config
from maskrcnn_jax.planning.devices import check_gpu, gpu_environment, gpus, topology
from maskrcnn_jax.planning.plan import Plan, make_plan
from maskrcnn_jax.settings import to_dict


def run(args: argparse.Namespace) -> int:
    """Compiles a program, prints its cost, and writes it as JSON on request.

    Returns:
        1 if the program needs more memory than a device has, else 0.
    """
    if args.output:
        outputs.check_file(args.output)
        outputs.check("maskrcnn-jax plan", [args.output], inputs=[args.config], force=args.force)
    config = config_file.read(args.config)
    for setting in args.set:
        config_file.override(config, setting)
    config_check.check(config)
    if args.gpu:
        check_gpu(args.gpu)
        environment = gpu_environment(os.environ)
        if environment != dict(os.environ):
            return _run_again(args, environment)
    with tempfile.TemporaryDirectory() as folder:
        try:
            plan = _plan(args, config, Path(folder) if args.cost else None)
        except MemoryError as error:
            message = f"maskrcnn-jax plan: the step does not fit into memory: {error}"
            print(message, file=sys.stderr)
            return 1
    _print_tables(plan, config)
    if args.output:
        with outputs.claim("maskrcnn-jax plan", [args.output], force=args.force) as add:
            add(args.output)
            text = json.dumps(_to_dict(plan, config), indent=1) + "\n"
            whole_files.write_text(args.output, text)
    return 0 if plan.device_memory is None or plan.memory.peak <= plan.device_memory else 1


def _plan(args: argparse.Namespace, config: Config, dump: Path | None) -> Plan:
    devices = _devices(args, dump)
    count = 1 if args.stage else config.execution.num_devices or len(devices)
    config.batch_size = _batch_size(config, args.batch_per_device, count)
    bucket = args.bucket or tuple(config.data.buckets[0])
    wanted = {"program": args.program, "stage": args.stage, "dump": dump}
    with _clock(f"compiling for {count} x {devices[0].device_kind}"):
        return make_plan(config, devices, bucket, **wanted)


def _run_again(args: argparse.Namespace, environment: dict[str, str]) -> int:
    """Runs the same command in a process with another environment: jax reads it at its start."""
    command = [sys.executable, "-m", "maskrcnn_jax", *args.arguments]
    return subprocess.run(command, env=environment).returncode


def _devices(args: argparse.Namespace, dump: Path | None) -> list[Any]:
    if args.gpu:
        return gpus(args.gpu, args.gpu_count)
    if args.topology:
        jax.config.update("jax_platforms", "cpu")  # Otherwise jax would initialise libtpu's TPU.
        return topology(args.topology, dump)
    return _own_devices(args.devices)


def _own_devices(count: int) -> list[Any]:
    """The devices of this machine, or simulated CPU devices if it has fewer."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:  # JAX reads the flag at its start.
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}"
    devices = jax.devices() if len(jax.devices()) >= count else jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"XLA_FLAGS or an earlier start of jax allow {len(devices)} devices only, not {count}"
        )
    return devices[:count]


def _batch_size(config: Config, per_device: int | None, num_devices: int) -> int:
    """Images per step: ``per_device`` for each group of devices that share images.

    The default is the batch size of the config, but at least one image for each group.
    """
    num_groups = max(num_devices // max(config.execution.space, 1), 1)
    if per_device is None:
        return max(config.batch_size, num_groups)
    return per_device * num_groups


@contextlib.contextmanager
def _clock(description: str) -> Iterator[None]:
    """Shows the elapsed time on stderr."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    is_silent = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_silent) as progress:
        progress.add_task(description, total=None)
        yield


def _print_tables(plan: Plan, config: Config) -> None:
    console = Console()
    table = Table(show_header=False)
    for name, value in _rows(plan, config).items():
        table.add_row(name, value)
    console.print(table)
    table = Table("collectives", "count", "of it in loops", "MiB per device")
    for collective in plan.collectives:
        numbers = collective.count, collective.in_loops, f"{collective.bytes / 2**20:.1f}"
        table.add_row(collective.kind, *map(str, numbers))
    if plan.collectives:
        console.print(table)
    if plan.cost:
        cost_tables.show(plan.cost, console)
        console.print(_prediction(plan), highlight=False)


def _rows(plan: Plan, config: Config) -> dict[str, str]:
    memory, images = plan.memory, plan.batch_size / plan.num_devices
    height, width = plan.bucket
    available = f" of {_gib(plan.device_memory)}" if plan.device_memory else ""
    reused = f"overwritten by {_gib(memory.reused)} of outputs"
    rows = {
        "devices": f"{plan.num_devices} x {plan.device}, mesh {_mesh(plan)}",
        "program": plan.program + (f", {plan.stage}" if plan.stage else ""),
        "step": f"{plan.batch_size} images of {height}x{width}, {images:g} per device, "
        f"{config.model.dtype}",
        "compiled in": f"{plan.compile_seconds:.1f} s, after {plan.trace_seconds:.1f} s of tracing",
        "memory per device": f"{_gib(memory.peak)}{available}",
        "of it arguments": f"{_gib(memory.arguments)}, {reused}",
        "other outputs": _gib(memory.outputs - memory.reused),
        "temporaries": _gib(memory.temporaries),
        "code": _gib(memory.program),
    }
    if plan.flops is not None:
        counted = plan.flops / 1e12
        rows["compiler's count"] = (
            f"{counted:.3f} TFLOP per device, {counted / images:.3f} per image"
        )
    if plan.traffic is not None:
        rows["memory traffic"] = f"{_gib(plan.traffic)} per device"
    if plan.stage is None:
        network = plan.model_flops
        rows["network's own"] = (
            f"{network.training / 1e12:.3f} TFLOP per image, "
            f"{network.forward / 1e12:.3f} of it forward"
        )
    return rows


def _prediction(plan: Plan) -> str:
    per_image = plan.cost.seconds / (plan.batch_size / plan.num_devices)
    return (
        f"predicted {per_image * 1e3:.2f} ms per image, {1 / per_image:.1f} images/s "
        "(priced by the compiler, not run)"
    )


def _mesh(plan: Plan) -> str:
    return " x ".join(f"{name} {size}" for name, size in plan.mesh.items())


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _to_dict(plan: Plan, config: Config) -> dict[str, Any]:
    """The plan, its config and the versions of the compiler as plain values for JSON."""
    names = "jax", "jaxlib", "libtpu", "jax_cuda13_plugin"
    packages = [name for name in names if importlib.util.find_spec(name)]
    collected = {}
    for collective in plan.collectives:
        numbers = collective._asdict()
        collected[numbers.pop("kind")] = numbers
    parts = {"memory": plan.memory._asdict() | {"peak": plan.memory.peak}, "collectives": collected}
    parts["model_flops"] = plan.model_flops._asdict()
    parts["cost"] = plan.cost and cost_tables.to_dict(plan.cost)
    versions = {name: importlib.metadata.version(name) for name in packages}
    return plan._asdict() | parts | {"versions": versions, "config": to_dict(config)}
