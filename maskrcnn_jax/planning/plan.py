"""The cost of a program on other machines, from the compiled program, which never runs.

Variables are shapes only. The devices may be those of `devices`, which need not exist, or
simulated CPU devices.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from maskrcnn_jax import sharding
from maskrcnn_jax.config import Config
from maskrcnn_jax.planning import chips, collectives, flops, hlo, programs
from maskrcnn_jax.planning.collectives import Collective
from maskrcnn_jax.planning.cost import cost
from maskrcnn_jax.planning.cost.cost import Cost


class Memory(NamedTuple):
    """Bytes on each device during a step."""

    arguments: int  # The state, and the shard of the batch.
    outputs: int  # The next state, and the metrics.
    reused: int  # Outputs in donated arguments.
    temporaries: int
    program: int

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs - self.reused + self.temporaries + self.program


class Plan(NamedTuple):
    """The costs of a compiled program."""

    program: str  # "train" or "detect".
    stage: str | None  # The stage of it that was compiled; None for the whole.
    device: str  # `jax.Device.device_kind`.
    num_devices: int
    mesh: dict[str, int]  # Number of devices along each axis.
    bucket: tuple[int, int]  # Height and width of the images in pixels.
    batch_size: int  # Images per step, over all devices.
    trace_seconds: float  # Tracing and lowering.
    compile_seconds: float
    memory: Memory
    device_memory: int | None  # Bytes of memory of a device, if known.
    # The compiler's count for one device and step, if it counts. Bodies of loops count once.
    flops: float | None
    traffic: int | None  # Bytes read and written by one device, counted likewise.
    model_flops: flops.Flops  # For one image, from `flops.total`.
    collectives: list[Collective]
    cost: Cost | None  # The predicted time, if asked for.


def make_plan(
    config: Config,
    devices: Sequence[Any],
    bucket: tuple[int, int],
    compiler_options: dict[str, Any] | None = None,
    *,
    program: str = "train",
    stage: str | None = None,
    dump: Path | None = None,
) -> Plan:
    """Compiles a program for one bucket and for devices that need not exist.

    Args:
        config: The experiment.
        devices: The devices to compile for: as many of them as the config says, or all. A stage
            takes the first.
        bucket: Height and width of the images in pixels.
        compiler_options: For XLA.
        program: "train", the training step, or "detect".
        stage: One stage of the program, with its gradient in training; see `stages`.
        dump: An empty folder, to predict the time of the program from what its compiler writes
            there. libtpu writes into that of `devices.topology`.

    Raises:
        ValueError: The config does not fit the devices or the bucket, the program has no such
            stage, or there are no prices for the devices.
        MemoryError: The step needs more memory than a device has. The message is XLA's.
    """
    chip = dump and chips.find(devices[0].device_kind)
    settings = config.execution
    count, space = settings.num_devices or len(devices), settings.space
    if stage:
        count = space = 1
    mesh = sharding.make_mesh(count, config.batch_size, devices[:count], space=space)
    sharding.check_buckets([bucket], space)
    start = time.perf_counter()
    lowered = programs.lower(config, bucket, mesh, program, stage)
    traced = time.perf_counter()
    options = {"xla_dump_to": str(dump)} if isinstance(chip, chips.GPU) else {}
    compiled = _compile(lowered, (compiler_options or {}) | options)
    compile_seconds = time.perf_counter() - traced
    parsed = hlo.parse(compiled.as_text())
    counted = compiled.cost_analysis() or {}  # XLA counts nothing for a GPU that is not there.
    traffic = counted.get("bytes accessed")
    return Plan(
        program=program,
        stage=stage,
        device=devices[0].device_kind,
        num_devices=mesh.size,
        mesh=dict(mesh.shape),
        bucket=bucket,
        batch_size=config.batch_size,
        trace_seconds=traced - start,
        compile_seconds=compile_seconds,
        memory=_memory(compiled),
        device_memory=_device_memory(devices[0]),
        flops=counted.get("flops"),
        traffic=None if traffic is None else int(traffic),
        model_flops=flops.total(config.model, bucket),
        collectives=collectives.read(parsed),
        cost=cost.read(chip, parsed, dump) if chip else None,
    )


def _compile(lowered: Any, options: dict[str, Any]) -> Any:
    try:
        return lowered.compile(options or None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(str(error)) from error


def _memory(program: jax.stages.Compiled) -> Memory:
    sizes = program.memory_analysis()
    return Memory(
        arguments=sizes.argument_size_in_bytes,
        outputs=sizes.output_size_in_bytes,
        reused=sizes.alias_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        program=sizes.generated_code_size_in_bytes,
    )


def _device_memory(device: Any) -> int | None:
    """Bytes of memory of a device; None for a CPU, which has no memory of its own."""
    if chip := chips.CHIPS.get(device.device_kind):
        return chip.memory
    statistics = device.memory_stats() if device.platform == "gpu" else None
    return statistics and statistics.get("bytes_limit")
