"""What a training step costs on machines that need not be at hand: it is compiled for them and read, never run.

Weights are shapes only. For TPUs the compiler is that of libtpu, which needs no TPU; for other platforms their own
devices are needed, or simulated ones of the CPU.
"""

import importlib.util
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maskrcnn_jax import collectives, flops, sharding, training
from maskrcnn_jax.collectives import Collective
from maskrcnn_jax.config import Config
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.structures import Batch, Instances

# Bytes of memory of v5e, v5p and v6e, by the names that jax has for them; from Google's pages on Cloud TPU.
TPU_MEMORY = {"TPU v5 lite": 16 << 30, "TPU v5": 95 << 30, "TPU v6 lite": 32 << 30}
TOPOLOGIES = "v5e:2x2, v5e:16x16, v5p:2x2x2, v6e:4x4"

# What libtpu is told where it only compiles: to ask no server which TPU this is, and to share the machine with others.
COMPILE_ONLY = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


class Memory(NamedTuple):
    """Bytes on each device during a step."""

    arguments: int  # The state, and the device's share of the batch.
    outputs: int  # The next state, and the metrics.
    reused: int  # Outputs that take the place of arguments.
    temporaries: int
    program: int

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs - self.reused + self.temporaries + self.program


class Plan(NamedTuple):
    """A compiled training step in numbers."""

    device: str  # The kind of device.
    num_devices: int
    mesh: dict[str, int]  # Devices along each axis.
    bucket: tuple[int, int]  # Height and width of the images.
    batch_size: int  # Images per step, over all devices.
    trace_seconds: float  # Until the program was ready for the compiler.
    compile_seconds: float
    memory: Memory
    device_memory: int | None  # Bytes a device has, where that is known.
    flops: float  # Of one device in one step, as the compiler counts them: bodies of loops count once.
    traffic: int  # Bytes that its operations read and write, most of them in the device's memory; likewise.
    model_flops: flops.Flops  # Of one image, as `flops.count` counts them.
    collectives: list[Collective]


def plan(
    config: Config,
    devices: Sequence[Any],
    bucket: tuple[int, int],
    compiler_options: dict[str, Any] | None = None,
) -> Plan:
    """Compiles the training step of a config for some devices, which need not exist, and one bucket.

    Raises:
        ValueError: The config does not fit the devices or the bucket.
        MemoryError: The step needs more memory than a device has; says so in the compiler's words.
    """
    mesh = sharding.make_mesh(None, config.batch_size, devices, space=config.space)
    sharding.check_buckets([bucket], mesh)
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
    """The chips of a TPU slice, such as ``v5e:16x16``, to compile for; no TPU is needed, but libtpu is.

    Raises:
        ValueError: libtpu is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("compiling for a TPU needs its compiler: pip install 'maskrcnn-jax[tpu]'")
    os.environ.update(COMPILE_ONLY | os.environ)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu knows no topology {name!r}; some that it knows are {TOPOLOGIES}: {error}") from error


def _lower(config: Config, bucket: tuple[int, int], mesh: Mesh) -> jax.stages.Lowered:
    """The step of `train.py` on shapes, which say where their arrays would lie."""
    model = MaskRCNN(config.model, sharding.per_image(mesh), mesh)
    image, size = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.full((1, 2), 64, jnp.int32)
    key = jax.eval_shape(partial(jax.random.key, config.seed))
    variables = jax.eval_shape(MaskRCNN(config.model).init, key, image, size)
    optimizer = training.make_optimizer(config, variables["params"])
    average = config.optimizer.average_decay is not None
    state = jax.eval_shape(partial(training.create_state, optimizer=optimizer, average=average), variables)
    everywhere = NamedSharding(mesh, PartitionSpec())
    state, key = (jax.tree.map(partial(_place, everywhere), tree) for tree in (state, key))
    batch = jax.tree.map(_place, sharding.batch_shardings(mesh), _batch(config, bucket))
    return training.compile_step(model, optimizer, config).lower(state, batch, key)


def _batch(config: Config, bucket: tuple[int, int]) -> Batch:
    """Shapes of a batch as the data pipeline delivers it."""
    b, g, data = config.batch_size, config.data.max_instances, config.data
    side = bucket if data.mask_store == "full" else (data.mask_size, data.mask_size)
    shape, int32 = jax.ShapeDtypeStruct, jnp.int32
    return Batch(
        images=shape((b, *bucket, 3), jnp.uint8),
        sizes=shape((b, 2), int32),
        canvas=shape((b, 2), int32),
        image_id=shape((b,), int32),
        instances=Instances(
            boxes=shape((b, g, 4), jnp.float32),
            classes=shape((b, g), int32),
            masks=shape((b, g, *side), jnp.uint8),
            valid=shape((b, g), bool),
        ),
        num_surplus=shape((b,), int32),
    )


def _place(place: NamedSharding, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


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
    """Bytes of memory a device has; None for a CPU, which shares the machine's."""
    if device.platform == "tpu":
        return TPU_MEMORY.get(device.device_kind)
    statistics = device.memory_stats() if device.platform == "gpu" else None
    return statistics and statistics.get("bytes_limit")
