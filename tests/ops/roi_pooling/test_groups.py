"""Groups of RoIs that are pooled together, for any order and any number of maps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from maskrcnn_jax.ops.roi_pooling import groups
from tests.conftest import QUICK_COMPILE


def test_groups_are_joined_in_the_old_order():
    count = 40  # The last group is half full.
    order = jnp.asarray(np.random.default_rng(0).permutation(count))
    tree = {"a": jnp.arange(count), "b": jnp.arange(3 * count).reshape(count, 3)}

    @jax.jit(compiler_options=QUICK_COMPILE)
    def run(tree, order):
        grouped = groups.split(tree, order)
        return grouped, groups.join(grouped, order)

    grouped, joined = run(tree, order)
    assert grouped["b"].shape == (-(-count // groups.GROUP_SIZE), groups.GROUP_SIZE, 3)
    assert grouped["a"][0, 0] == order[0]
    jax.tree.map(np.testing.assert_array_equal, joined, tree)


def pick(cells, offsets, places):
    """Stands in for pooling: reads one cell of each RoI."""
    return cells[offsets + places].reshape(-1, 1, 1, 1)


def pool(maps, index, places, keys=()):
    settings = {"resolution": 1, "group_size": 3, "keys": keys}
    return groups.pool_by_map(pick, maps, index, places, **settings)


def test_each_roi_is_pooled_from_its_map_and_its_image():
    """Seven RoIs of three maps, of which one has none; groups have three."""
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, size, 1)).astype(np.float32) for size in (4, 9, 2)]
    index = np.array([[0, 2, 2, 0, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0]])
    places = np.array([[3, 1, 0, 2, 1, 0, 0], [8, 7, 0, 1, 2, 3, 0]])
    keys = (jnp.asarray(places),)
    run = jax.jit(jax.vmap(pool), compiler_options=QUICK_COMPILE)
    found = run(maps, jnp.asarray(index), jnp.asarray(places), keys)
    expected = [
        [maps[m][image, place, 0] for m, place in zip(index[image], places[image], strict=True)]
        for image in range(2)
    ]
    np.testing.assert_array_equal(found.reshape(2, 7), expected)
    # One image alone, whose maps the other images share.
    shared = jax.jit(
        jax.vmap(partial(pool, [jnp.asarray(x[0]) for x in maps])), compiler_options=QUICK_COMPILE
    )
    found = shared(jnp.asarray(index[:1]), jnp.asarray(places[:1]))
    np.testing.assert_array_equal(found.reshape(7), expected[0])


def test_no_rois():
    nothing = jnp.zeros(0, jnp.int32)
    assert pool([jnp.ones((4, 1))], nothing, nothing).shape == (0, 1, 1, 1)
