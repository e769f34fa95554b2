"""Training on several devices: the images of a batch are spread over them, everything else is on each of them.

The step is one program for all devices. XLA adds the sums over the batch, of losses, counts, gradients and the
statistics of batch norms, where arrays are sharded so; the stages of one image are mapped inside a `shard_map`, lest
XLA gather the batch for what it cannot divide, such as sorting.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def make_mesh(num_devices: int | None, batch_size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The first of the devices, all by default, along one axis, ``data``.

    Args:
        devices: To choose from; those of all processes by default.

    Raises:
        ValueError: There are fewer devices, or the batch cannot be divided among them.
    """
    devices = jax.devices() if devices is None else devices
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
    """Puts a copy onto each device of the mesh.

    Args:
        tree: Arrays that are the same, and whole, on all devices of all processes.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def copy(x: Any) -> jax.Array:
        x = x.addressable_data(0) if isinstance(x, jax.Array) else x
        return jax.make_array_from_callback(x.shape, everywhere, lambda index: x[index])

    return jax.tree.map(copy, tree)


def separately(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Lets each device work on its share of a batch by itself: nothing is exchanged, and nothing depends on others.

    Args:
        function: Of variables, which each device has, and arrays with a leading batch axis, to such arrays.
    """
    whole, split = PartitionSpec(), PartitionSpec("data")

    def mapped(variables: Any, *arrays: Any) -> Any:
        specs = (whole, *(split for _ in arrays))
        # No gradient is taken through it, which without the check would miss a sum over devices.
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)(variables, *arrays)

    return function if mesh.size == 1 else mapped
