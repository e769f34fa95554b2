"""Meshes, and the placement of arrays on them."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax import execution, sharding
from maskrcnn_jax.model import MaskRCNN
from maskrcnn_jax.model_config import ModelConfig, ResNetConfig
from tests.test_model import make_batch

KEY = jax.random.key(7)


def test_a_mesh_has_the_devices_asked_for():
    assert sharding.make_mesh(None, 16).shape == {"data": 8, "space": 1}
    assert sharding.make_mesh(6, 4, space=3).shape == {"data": 2, "space": 3}
    pairs = sharding.make_mesh(None, 2, jax.devices()[5:1:-1], space=2).devices
    # Neighbouring devices share images.
    assert [[device.id for device in pair] for pair in pairs] == [
        [2, 3],
        [4, 5],
    ]
    assert sharding.per_image(sharding.make_mesh(1, 3)) is jax.vmap


def test_one_process_loads_all_rows_and_everything_is_on_each_device():
    mesh = sharding.make_mesh(4, 8)
    assert sharding.local_rows(mesh, 8) == list(range(8))
    batch = sharding.shard_batch(make_batch(), mesh)
    assert [shard.data.tolist() for shard in batch.image_id.addressable_shards][1] == [102, 103]
    fewer = sharding.replicate(
        sharding.replicate({"a": np.arange(3)}, mesh), sharding.make_mesh(2, 8)
    )["a"]
    assert [shard.data.tolist() for shard in fewer.addressable_shards] == [[0, 1, 2]] * 2


def test_devices_that_compute_their_own_share_exchange_nothing():
    mesh = sharding.make_mesh(4, 8)
    function = sharding.per_device(lambda scale, x: scale * x.sum(0, keepdims=True), mesh)
    np.testing.assert_array_equal(function(2.0, np.arange(8.0)), [2, 10, 18, 26])


@pytest.mark.parametrize(
    "num_devices, batch_size, space, message",
    [
        (9, 18, 1, "execution.num_devices=9, but there are 8"),
        (0, 8, 1, "execution.num_devices=0"),
        (None, 12, 1, "12 cannot be divided among 8 devices"),
        (6, 4, 2, "4 cannot be divided among 3 groups of 2 devices"),
        (6, 8, 4, "execution.space=4 does not divide the number of devices, 6"),
        (None, 8, 0, "execution.space=0"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(num_devices, batch_size, space, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(num_devices, batch_size, space=space)


def test_processes_do_not_share_images_and_all_take_part():
    devices = [mock.Mock(spec=jax.Device, process_index=i // 3, id=i) for i in range(6)]
    message = "execution.space=2 must divide the number of devices of each process"
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(None, 3, devices, space=2)
    message = "execution.num_devices=3, but several processes use all of their 6 devices"
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(3, 3, devices)
    assert sharding.make_mesh(2, 2, devices[3:]).size == 2


def test_rows_are_divided_evenly():
    sharding.check_buckets([(832, 1344), (1344, 800)], 2)
    sharding.check_buckets([(800, 1344), (32, 64)], 1)
    message = "with execution.space=2, heights must be multiples of 64 .* 800x1344"
    with pytest.raises(ValueError, match=f"data.buckets: {message}"):
        sharding.check_buckets([(1344, 800), (800, 1344)], 2)
    with pytest.raises(ValueError, match="at least 128; got 64x96"):
        sharding.check_buckets([(64, 96)], 2)
    images, sizes = jnp.zeros((4, 96, 64, 3), jnp.uint8), jnp.full((4, 2), 64)
    mesh = sharding.make_mesh(8, 4, space=2)
    config = ModelConfig(backbone=ResNetConfig(depth=18))
    model = MaskRCNN(config, run=execution.choose(mesh=mesh))
    with pytest.raises(ValueError, match="multiples of 64"):
        jax.eval_shape(model.init, KEY, images, sizes)


def test_images_are_divided_by_rows_and_all_else_is_whole():
    batch = sharding.shard_batch(make_batch((128, 96)), sharding.make_mesh(8, 8, space=4))
    assert {shard.data.shape for shard in batch.images.addressable_shards} == {(4, 32, 96, 3)}
    assert {shard.data.shape for shard in batch.instances.masks.values.addressable_shards} == {
        (4, 4, 14, 14)
    }
    np.testing.assert_array_equal(batch.images, make_batch((128, 96)).images)
