"""The cost of a training step on other machines, from the compiled program, which never runs.

Variables are shapes only. libtpu compiles for TPUs without having one. Other platforms need their
devices, or simulated CPU devices.
"""

import importlib.util
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maskrcnn_jax import execution, sharding, training
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.pack import batch_shapes
from maskrcnn_jax.model import MaskRCNN, example_inputs
from maskrcnn_jax.planning import collectives, flops
from maskrcnn_jax.planning.collectives import Collective

# Bytes of memory of v5e, v5p and v6e by device kind, from Google's pages on Cloud TPU.
TPU_MEMORY = {"TPU v5 lite": 16 << 30, "TPU v5": 95 << 30, "TPU v6 lite": 32 << 30}
TOPOLOGIES = "v5e:2x2, v5e:16x16, v5p:2x2x2, v6e:4x4"

# These settings let libtpu compile without a TPU, in several processes at a time.
COMPILE_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


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
    """The costs of a compiled training step."""

    device: str  # `jax.Device.device_kind`.
    num_devices: int
    mesh: dict[str, int]  # Number of devices along each axis.
    bucket: tuple[int, int]  # Height and width of the images in pixels.
    batch_size: int  # Images per step, over all devices.
    trace_seconds: float  # Tracing and lowering.
    compile_seconds: float
    memory: Memory
    device_memory: int | None  # Bytes of memory of a device, if known.
    # The compiler's count for one device and step. Bodies of loops count once.
    flops: float
    traffic: int  # Bytes read and written by one device, counted likewise.
    model_flops: flops.Flops  # For one image, from `flops.total`.
    collectives: list[Collective]


def make_plan(
    config: Config,
    devices: Sequence[Any],
    bucket: tuple[int, int],
    compiler_options: dict[str, Any] | None = None,
) -> Plan:
    """Compiles the training step of a config for one bucket and for devices that need not exist.

    Raises:
        ValueError: The config does not fit the devices or the bucket.
        MemoryError: The step needs more memory than a device has. The message is XLA's.
    """
    mesh = sharding.make_mesh(None, config.batch_size, devices, space=config.execution.space)
    sharding.check_buckets([bucket], config.execution.space)
    start = time.perf_counter()
    lowered = _lower(config, bucket, mesh)
    traced = time.perf_counter()
    try:
        program = lowered.compile(compiler_options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(str(error)) from error
    compiled = time.perf_counter()
    cost = program.cost_analysis()
    return Plan(
        device=devices[0].device_kind,
        num_devices=mesh.size,
        mesh=dict(mesh.shape),
        bucket=bucket,
        batch_size=config.batch_size,
        trace_seconds=traced - start,
        compile_seconds=compiled - traced,
        memory=_memory(program),
        device_memory=_device_memory(devices[0]),
        flops=cost["flops"],
        traffic=int(cost["bytes accessed"]),
        model_flops=flops.total(config.model, bucket),
        collectives=collectives.read(program.as_text()),
    )


def topology(name: str) -> list[Any]:
    """The devices of a TPU slice, such as ``v5e:16x16``, to compile for. Needs libtpu only.

    Raises:
        ValueError: libtpu is not installed, or the slice is unknown.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("compiling for a TPU needs its compiler: pip install 'maskrcnn-jax[tpu]'")
    os.environ.update(COMPILE_ONLY | os.environ)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except jax.errors.JaxRuntimeError as error:
        message = f"libtpu knows no topology {name!r}; some that it knows are {TOPOLOGIES}"
        raise ValueError(f"{message}: {error}") from error


def _lower(config: Config, bucket: tuple[int, int], mesh: Mesh) -> jax.stages.Lowered:
    """Lowers the training step of `train.py` for shapes with their shardings."""
    run = execution.choose(config.execution, mesh)
    model = MaskRCNN(config.model, config.detection, run)
    key = jax.eval_shape(partial(jax.random.key, config.seed))
    init = MaskRCNN(config.model).init
    variables = jax.eval_shape(init, key, *example_inputs(config.model))
    optimizer = training.make_optimizer(config, variables["params"])
    average = config.optimizer.average_decay is not None
    create_state = partial(training.create_state, optimizer=optimizer, average=average)
    state = jax.eval_shape(create_state, variables)
    everywhere = NamedSharding(mesh, PartitionSpec())
    state, key = (jax.tree.map(partial(_place, everywhere), tree) for tree in (state, key))
    masks = config.model.mask_head is not None
    batch = batch_shapes(config, bucket, config.batch_size, masks=masks)
    batch = jax.tree.map(_place, sharding.batch_shardings(batch, mesh), batch)
    return training.compile_step(model, optimizer, config).lower(state, batch, key)


def _place(where: NamedSharding, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


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
    if device.platform == "tpu":
        return TPU_MEMORY.get(device.device_kind)
    statistics = device.memory_stats() if device.platform == "gpu" else None
    return statistics and statistics.get("bytes_limit")
