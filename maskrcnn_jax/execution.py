"""How the network is computed: a choice for the devices at hand, made outside the model."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jaxlib
from jax.sharding import Mesh
from jaxtyping import Array

from maskrcnn_jax import sharding
from maskrcnn_jax.config import ExecutionConfig
from maskrcnn_jax.xla import compiler

# On NVIDIA GPUs before Hopper, these versions add atomically by compare-and-swap in a loop, at
# times a thousand times as slowly as others: https://github.com/jax-ml/jax/issues/38806.
WITH_SLOW_ATOMICS = ("0.10.2", "0.11.0")
HOPPER = 9.0  # Compute capability.

# These have 128 MiB of vector memory (VMEM), which hold the maps of an image; other TPUs have less.
LARGE_VMEM = ("TPU v5 lite", "TPU v5e", "TPU v6 lite", "TPU v6e")

# Queries of an image that attend to all of it at once. A GPU has the memory for all of them.
ATTENTION_CHUNKS = {"cpu": 512, "tpu": 128, "any": 512}
MASK_CHUNK = 20  # Most images fill few of the slots, and a CPU skips the empty chunks.
UPSAMPLE_CHUNK = 32  # RoIs per image.

Map = Callable[[Callable[..., Any]], Callable[..., Any]]


def _identity(x: Any) -> Any:
    return x


class Execution(NamedTuple):
    """How the network is computed. No field changes a result beyond rounding.

    The default is the plain network of the paper, on any platform.
    """

    per_image: Map = jax.vmap  # Maps a stage of one image over the batch.
    per_pyramid: Map = jax.vmap  # Maps RoI pooling over the batch.
    # Maps a function of a batch and of a kernel over the devices that share the batch. XLA would
    # gather the batch for a convolution with groups: https://github.com/openxla/xla/issues/47945.
    per_device: Map = _identity
    row_shards: int = 1  # Number of devices that share the rows of each image.
    gather_rows: Callable[[Array], Array] = _identity  # Brings all rows to each of these devices.
    # Forms of RoIAlign and of its gradient: "gather", "einsum", "pallas", or "by_platform" for a
    # program that is compiled later, for any platform.
    align_form: str = "gather"
    align_gradient: str = "gather"
    rpn_windows: bool = False  # The gradient of the RPN flows through windows, not whole maps.
    recompute: tuple[str, ...] = ()  # Activations that the backward pass rematerialises.
    attention_chunk: int | None = None  # Queries of an image that attend to all of it at once.
    mask_chunk: int | None = None  # Detections per image whose masks are drawn at once.
    upsample_chunk: int | None = None  # RoIs per image that the mask head upsamples at once.
    deterministic: bool = False  # The same bits in every run, on a GPU too.
    small_on_cpu: bool = False  # XLA orders instructions for the least memory; see `xla.compiler`.
    on_gpu: bool = False  # XLA compiles with the options for GPUs; see `xla.compiler`.

    def jit(self, function: Callable[..., Any], **settings: Any) -> Any:
        """`jax.jit` with the compiler options of this execution."""
        options = compiler.options(
            deterministic=self.deterministic,
            small_on_cpu=self.small_on_cpu,
            on_gpu=self.on_gpu,
        )
        return jax.jit(function, compiler_options=options or None, **settings)


def choose(
    settings: ExecutionConfig | None = None, mesh: Mesh | None = None, *, portable: bool = False
) -> Execution:
    """Resolves the settings for the devices of the mesh, or for the default device.

    No other function asks which platform a program is for.

    Args:
        settings: By default `ExecutionConfig()`.
        mesh: The devices, with the axes ``data`` and ``space``.
        portable: The program is for any platform, and is compiled later.
    """
    settings = settings or ExecutionConfig()
    device = None if portable else _device(mesh)
    platform = "any" if device is None else device.platform
    row_shards, gather_rows = 1, _identity
    per_device: Map = _identity
    if mesh is not None and mesh.shape["data"] > 1:
        per_device = sharding.per_device_of_batch(mesh)
    if mesh is not None and mesh.shape["space"] > 1:
        row_shards = mesh.shape["space"]
        gather_rows = partial(sharding.gather_rows, mesh=mesh)
    # On several devices, barriers would keep XLA from reducing all gradients in one operation.
    is_one_cpu = platform == "cpu" and (mesh is None or mesh.size == 1)
    per_image = jax.vmap if mesh is None else sharding.per_image(mesh)
    return Execution(
        per_image=per_image,
        # A `shard_map` over ``data`` alone would give each device all rows of its images, so it
        # must not map RoI pooling if several devices share rows.
        per_pyramid=per_image if row_shards == 1 else jax.vmap,
        per_device=per_device,
        row_shards=row_shards,
        gather_rows=gather_rows,
        align_form=_align_form(settings, device, row_shards),
        align_gradient=_align_gradient(settings, device, row_shards),
        rpn_windows=settings.rpn_gradient == "windows" and row_shards == 1,
        recompute=_recomputed(settings, is_one_cpu),
        attention_chunk=ATTENTION_CHUNKS.get(platform),
        mask_chunk=MASK_CHUNK if platform in ("cpu", "any") else None,
        upsample_chunk=UPSAMPLE_CHUNK if is_one_cpu else None,
        deterministic=settings.deterministic,
        small_on_cpu=is_one_cpu,
        on_gpu=platform == "gpu",
    )


def _align_form(settings: ExecutionConfig, device: Any, row_shards: int) -> str:
    if row_shards > 1:
        return "einsum"  # Each device multiplies its own rows; the products are added.
    if settings.align_form != "auto":
        return settings.align_form
    if device is None:
        return "by_platform"
    if device.platform != "tpu":
        return "gather"
    return "pallas" if device.device_kind in LARGE_VMEM else "einsum"


def _align_gradient(settings: ExecutionConfig, device: Any, row_shards: int) -> str:
    form = _align_form(settings, device, row_shards)
    # On a GPU the gradient of a gather is added by atomic operations, in any order.
    is_auto = settings.align_form == "auto"
    avoids_atomics = settings.deterministic or (is_auto and _has_slow_atomics(device))
    is_gpu = device is not None and device.platform == "gpu"
    return "einsum" if is_gpu and avoids_atomics else form


def _has_slow_atomics(device: Any) -> bool:
    capability = float(getattr(device, "compute_capability", 0))  # 0 if it is not known.
    return jaxlib.__version__ in WITH_SLOW_ATOMICS and capability < HOPPER


def _recomputed(settings: ExecutionConfig, is_one_cpu: bool) -> tuple[str, ...]:
    if settings.rematerialise:
        return ("blocks",)
    # On other platforms XLA may hoist the recomputation and use more memory.
    return ("strided", "top_down") if is_one_cpu else ()


def _device(mesh: Mesh | None) -> Any:
    """The first device of the mesh, or of the default platform."""
    return jax.devices()[0] if mesh is None else mesh.devices.flat[0]
