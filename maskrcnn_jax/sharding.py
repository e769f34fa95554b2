"""Training on several devices: the images of a batch are spread over them, everything else is on each of them.

The step is one program for all devices. XLA adds the sums over the batch, of losses, counts, gradients and the
statistics of batch norms, where arrays are sharded so; the stages of one image are mapped inside a `shard_map`, lest
XLA gather the batch for what it cannot divide, such as sorting.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def make_mesh(num_devices: int | None, batch_size: int) -> Mesh:
    """The devices to train on, all by default, along one axis, ``data``.

    Raises:
        ValueError: There are fewer devices, or the batch cannot be divided among them.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise ValueError(f"num_devices={num_devices}, but there are {len(devices)}")
    if batch_size % count:
        raise ValueError(
            f"batch_size={batch_size} cannot be divided among {count} devices: change it, or set num_devices"
        )
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def per_image(mesh: Mesh) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What `MaskRCNN.per_image` is on a mesh."""
    if mesh.size == 1:
        return jax.vmap
    split = PartitionSpec("data")

    def map_over_batch(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=split, out_specs=split)

    return map_over_batch


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Rows of the batch that the devices of this process hold, and that it therefore has to load."""
    split = NamedSharding(mesh, PartitionSpec("data"))
    slices = split.addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for (rows,) in slices for row in range(batch_size)[rows]})


def spread(batch: T, mesh: Mesh) -> T:
    """Puts arrays with a leading batch axis onto the devices, each its share of the images.

    Args:
        batch: NumPy arrays with the rows that `local_rows` names; all rows, where there is one process.
    """
    split = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split, x), batch)


def replicate(tree: T, mesh: Mesh) -> T:
    """Puts a copy onto each device; every process has to give the same numbers."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, everywhere, lambda index: x[index]), tree)
