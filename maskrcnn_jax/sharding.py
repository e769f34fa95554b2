"""Shards batches of images over devices, and replicates everything else.

Devices form a mesh of two axes. Devices along ``data`` have different images. Devices along
``space`` share the rows of the same images, which helps if an image is too large for one device, or
if a batch has fewer images than there are devices.

The step is one program for all devices. XLA inserts the all-reduces over the batch (of losses,
counts, gradients and batch-norm statistics) and exchanges the border rows of the shards. The stages
of one image are mapped inside a `shard_map` over ``data``; otherwise XLA would gather the batch for
operations that it cannot shard, such as sorting. These stages need all rows of the objectness, so
every device along ``space`` repeats the same work there.

A program that users map over devices themselves, with `jax.pmap` or `jax.shard_map`, calls
`MaskRCNN.losses`. It must sum the counts with `jax.lax.psum` before it divides the sums by the
counts and differentiates; then it sums losses and gradients. The mean of the per-device losses is
another number. A `shard_map` with ``check_vma``, the default, already sums the gradients of
replicated parameters; a second sum would multiply them by the number of devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from maskrcnn_jax.structures import Batch

STRIDE = 32  # Pixels of a cell of C5 and P5, the coarsest maps with convolutions.
MIN_HEIGHT = 128  # Pixels: each device then has four rows of P5.

T = TypeVar("T")


def make_mesh(
    num_devices: int | None,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    space: int = 1,
) -> Mesh:
    """Makes a mesh of the first devices with the axes ``data`` and ``space``.

    Args:
        num_devices: The number of devices; None for all.
        batch_size: The number of images that the devices share.
        devices: The devices to choose from; by default those of all processes.
        space: The number of devices that share the rows of an image. They belong to one process.

    Raises:
        ValueError: There are fewer devices; ``space`` does not divide the devices; the devices
            cannot share the batch equally; or devices of one of several processes would be idle.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    count = len(devices) if num_devices is None else num_devices
    asked = f"execution.num_devices={num_devices}"
    if not 1 <= count <= len(devices):
        raise ValueError(f"{asked}, but there are {len(devices)}")
    if count < len(devices) and devices[0].process_index != devices[-1].process_index:
        raise ValueError(f"{asked}, but several processes use all of their {len(devices)} devices")
    advice = "change it, or set execution.num_devices"
    if space < 1 or count % space:
        raise ValueError(
            f"execution.space={space} does not divide the number of devices, {count}: {advice}"
        )
    if batch_size % (count // space):
        groups = f"{count // space} groups of {space} devices"
        among = f"{count} devices" if space == 1 else groups
        raise ValueError(f"batch_size={batch_size} cannot be divided among {among}: {advice}")
    grid = np.array(devices[:count]).reshape(-1, space)
    if any(row[0].process_index != row[-1].process_index for row in grid):
        raise ValueError(
            f"execution.space={space} must divide the number of devices of each process"
        )
    return Mesh(grid, ("data", "space"), axis_types=(AxisType.Auto, AxisType.Auto))


def check_buckets(buckets: Sequence[tuple[int, ...]], space: int) -> None:
    """Checks that ``space`` devices hold equal numbers of rows of all convolved feature maps.

    With unequal shards, or shards of fewer rows than a kernel, XLA's gradients of convolutions are
    silently wrong: in jaxlib 0.10.2 they are multiples of the right ones.

    Raises:
        ValueError: The height of a bucket (height, width) cannot be divided so.
    """
    for height, width in buckets:
        if space > 1 and (height % (STRIDE * space) or height < MIN_HEIGHT):
            raise ValueError(
                f"data.buckets: with execution.space={space}, heights must be multiples of "
                f"{STRIDE * space} and at least {MIN_HEIGHT}; got {height}x{width}"
            )


def gather_rows(x: Float[Array, "b ..."], mesh: Mesh) -> Float[Array, "b ..."]:
    """Gathers all rows of each image on the devices that share the image.

    For maps with too few rows to shard, see `check_buckets`; XLA would shard them nevertheless.
    """
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("data")))


def per_image(mesh: Mesh) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`jax.vmap` on a mesh: each device maps a stage of one image over its own images."""
    if mesh.size == 1:
        return jax.vmap
    split = PartitionSpec("data")

    def map_over_batch(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=split, out_specs=split)

    return map_over_batch


def per_device_of_batch(mesh: Mesh) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Maps a function of a batch and of replicated weights over ``data``.

    Rows stay sharded over ``space`` as XLA sees fit.
    """
    split, whole = PartitionSpec("data"), PartitionSpec()

    def map_over_devices(function: Callable[..., Any]) -> Callable[..., Any]:
        specs = {"in_specs": (split, whole), "out_specs": split, "axis_names": {"data"}}
        return jax.shard_map(function, mesh=mesh, **specs)

    return map_over_devices


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Indices in the batch of the images on this process's devices, which the process loads."""
    split = NamedSharding(mesh, PartitionSpec("data"))
    slices = split.addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in slices for row in range(batch_size)[rows]})


def batch_shardings(batch: Batch, mesh: Mesh) -> Batch:
    """The sharding of each array of a batch: ``images`` by image and row, all others by image."""
    whole = NamedSharding(mesh, PartitionSpec("data"))
    shardings = jax.tree.map(lambda _: whole, batch)
    return shardings._replace(images=NamedSharding(mesh, PartitionSpec("data", "space")))


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Puts each device's share of a batch onto the device.

    Args:
        batch: NumPy arrays with the images of `local_rows`. A single process has all images.
    """
    shardings = batch_shardings(batch, mesh)
    return jax.tree.map(jax.make_array_from_process_local_data, shardings, batch)


def replicate(tree: T, mesh: Mesh) -> T:
    """Puts a copy of each array onto each device of the mesh.

    Args:
        tree: Arrays that are unsharded, and equal in all processes.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def copy(x: Any) -> jax.Array:
        x = x.addressable_data(0) if isinstance(x, jax.Array) else x
        return jax.make_array_from_callback(x.shape, everywhere, lambda index: x[index])

    return jax.tree.map(copy, tree)


def per_device(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Maps a function over devices without communication: each computes its share of the batch.

    Args:
        function: Maps variables, which are replicated, and arrays with a leading batch axis to
            arrays with a leading batch axis.
    """
    whole, split = PartitionSpec(), PartitionSpec("data")

    def mapped(variables: Any, *arrays: Any) -> Any:
        in_specs = whole, *(split for _ in arrays)
        # Without the check a gradient would lack its sum over devices, but nothing here needs one.
        sharded = jax.shard_map(
            function, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False
        )
        return sharded(variables, *arrays)

    return function if mesh.size == 1 else mapped
