"""Training on several devices: the images of a batch are spread over them, everything else is on each of them.

Devices form a mesh of two axes. Those along ``data`` have different images; those along ``space`` share the same
images, each with some of the rows, for images that are too large, or batches that are too small, for one device each.

The step is one program for all devices. XLA adds the sums over the batch, of losses, counts, gradients and the
statistics of batch norms, where arrays are sharded so, and exchanges the rows at the seams of images; the stages of one
image are mapped inside a `shard_map` over ``data``, lest XLA gather the batch for what it cannot divide, such as
sorting. These stages need all rows of the objectness, so every device along ``space`` does the same work there.

A program that is mapped over devices by hand, by `jax.pmap` or `jax.shard_map`, takes `MaskRCNN.losses`: the counts are
added with `jax.lax.psum` before sums are divided by them and differentiated, then losses and gradients are added. The
mean of the losses of devices is another number. A `shard_map` with ``check_vma``, the default, adds the gradients of
what all devices share by itself: added again, they would be too large by the number of devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from maskrcnn_jax.structures import Batch, Instances

STRIDE = 32  # Of the coarsest feature map with convolutions.
MIN_HEIGHT = 128  # Four of its rows.

T = TypeVar("T")


def make_mesh(
    num_devices: int | None, batch_size: int, devices: Sequence[jax.Device] | None = None, *, space: int = 1
) -> Mesh:
    """The first of the devices, all by default, along two axes, ``data`` and ``space``.

    Args:
        devices: To choose from; those of all processes by default.
        space: Devices that share the rows of each image; they belong to one process.

    Raises:
        ValueError: There are fewer devices, or they cannot be divided so, or the batch cannot be divided among them; or
            devices are left over where there are several processes, which all have to take part.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise ValueError(f"num_devices={num_devices}, but there are {len(devices)}")
    if count < len(devices) and devices[0].process_index != devices[-1].process_index:
        raise ValueError(f"num_devices={num_devices}, but several processes use all of their {len(devices)} devices")
    if space < 1 or count % space:
        raise ValueError(f"space={space} does not divide the number of devices, {count}: change it, or set num_devices")
    if batch_size % (count // space):
        among = f"{count} devices" if space == 1 else f"{count // space} groups of {space} devices"
        raise ValueError(f"batch_size={batch_size} cannot be divided among {among}: change it, or set num_devices")
    grid = np.array(devices[:count]).reshape(-1, space)
    if any(row[0].process_index != row[-1].process_index for row in grid):
        raise ValueError(f"space={space} must divide the number of devices of each process")
    return Mesh(grid, ("data", "space"), axis_types=(AxisType.Auto, AxisType.Auto))


def check_buckets(buckets: Sequence[tuple[int, ...]], mesh: Mesh) -> None:
    """Sees to it that devices that share an image have as many of its rows each, on all maps with convolutions.

    Where they have not, or on maps with fewer rows than a kernel, XLA's gradients of convolutions are silently wrong:
    multiples of the right ones, in jaxlib 0.10.2.

    Raises:
        ValueError: A bucket (height, width) whose height cannot be divided so.
    """
    space = mesh.shape["space"]
    for height, width in buckets:
        if space > 1 and (height % (STRIDE * space) or height < MIN_HEIGHT):
            raise ValueError(
                f"data.buckets: with space={space}, heights must be multiples of {STRIDE * space} and at least "
                f"{MIN_HEIGHT}; got {height}x{width}"
            )


def whole_images(x: Float[Array, "b ..."], mesh: Mesh | None) -> Float[Array, "b ..."]:
    """An array of a batch with all of an image on each of the devices that share it.

    For what has too few rows to be divided: see `check_buckets`. Left alone, XLA divides it nevertheless.
    """
    if mesh is None or mesh.shape["space"] == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("data")))


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


def batch_shardings(mesh: Mesh) -> Batch:
    """Where each array of a batch lies: images by rows too, all else whole with the devices that have its image."""
    whole = NamedSharding(mesh, PartitionSpec("data"))
    instances = Instances(boxes=whole, classes=whole, masks=whole, valid=whole)
    divided = NamedSharding(mesh, PartitionSpec("data", "space"))
    return Batch(divided, sizes=whole, canvas=whole, image_id=whole, instances=instances, num_surplus=whole)


def spread(batch: Batch, mesh: Mesh) -> Batch:
    """Puts a batch onto the devices, each its share of the images.

    Args:
        batch: NumPy arrays with the images that `local_rows` names; all of them, where there is one process.
    """
    return jax.tree.map(jax.make_array_from_process_local_data, batch_shardings(mesh), batch)


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
