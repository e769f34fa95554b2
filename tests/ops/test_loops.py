"""First values of loops inside `shard_map`, and numbers of steps under `jax.vmap`."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from maskrcnn_jax.ops.loops import batch_max, varying_zero


def double(x, start):
    """A loop whose result varies over the devices."""
    return jax.lax.fori_loop(0, 2, lambda _, total: total + x.astype(jnp.float32), start)


def sharded(function):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec("data")
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec))


def test_a_loop_that_starts_with_a_varying_zero_runs_inside_shard_map():
    x = jnp.arange(4)
    found = sharded(lambda x: double(x, jnp.broadcast_to(varying_zero(x, jnp.float32), (1,))))(x)
    assert found.dtype == jnp.float32 and found.tolist() == [0, 2, 4, 6]
    with pytest.raises(TypeError, match="carry"):  # The reason for the helper.
        sharded(lambda x: double(x, jnp.zeros(1)))(x)


def test_all_images_take_the_steps_of_the_longest():
    count = partial(jax.lax.fori_loop, 0, body_fun=lambda _, total: total + 1, init_val=0)
    steps = jnp.array([3, 0, 5])
    assert jax.vmap(lambda n: count(batch_max(n)))(steps).tolist() == [5, 5, 5]
    assert batch_max(jnp.int32(3)) == 3
