"""Windows around anchors against a loop over their cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.windows import windows_at

NUM_RATIOS = 3
SHAPES = {2: (5, 6), 3: (3, 4), 4: (2, 2)}
EXTENTS = {2: (4, 6), 3: (3, 3), 4: (2, 2)}  # The canvas covers only a part of two maps.


def cell_of(index):
    """Level, row, column and ratio of an anchor, found by counting."""
    for level, (height, width) in SHAPES.items():
        for ratio, row, column in np.ndindex(NUM_RATIOS, height, width):
            if index == 0:
                return level, row, column, ratio
            index -= 1
    raise AssertionError


def cells_around(index, radius):
    """Place in the window, level and cell of each cell within the extent."""
    level, row, column, _ = cell_of(index)
    for y, x in np.ndindex(2 * radius + 1, 2 * radius + 1):
        cell = row + y - radius, column + x - radius
        if 0 <= cell[0] < EXTENTS[level][0] and 0 <= cell[1] < EXTENTS[level][1]:
            yield (y, x), level, cell


def random_pyramid(rng):
    return {level: rng.normal(size=(*shape, 2)).astype("f") for level, shape in SHAPES.items()}


def read(pyramid, indices, radius):
    extents = {level: jnp.array(extent) for level, extent in EXTENTS.items()}
    pyramid, indices = jax.tree.map(jnp.asarray, (pyramid, indices))
    return windows_at(pyramid, extents, indices, num_anchors=NUM_RATIOS, radius=radius)


ALL = np.arange(NUM_RATIOS * sum(height * width for height, width in SHAPES.values()))
TWICE = np.array([40, 3, 3, 40, 5])


@pytest.mark.parametrize("indices", [ALL, TWICE], ids=["all", "twice"])
@pytest.mark.parametrize("radius", [0, 1, 2])
def test_windows_and_their_gradient_equal_a_loop(indices, radius):
    rng = np.random.default_rng(radius)
    pyramid, side = random_pyramid(rng), 2 * radius + 1
    windows = np.zeros((len(indices), side, side, 2), "f")
    inside = np.zeros((len(indices), side, side, 1), bool)
    upstream = rng.normal(size=windows.shape).astype("f")
    gradients = {level: np.zeros_like(x) for level, x in pyramid.items()}
    for i, index in enumerate(indices):
        for place, level, cell in cells_around(index, radius):
            windows[i][place] = pyramid[level][cell]
            inside[i][place] = True
            gradients[level][cell] += upstream[i][place]

    @jax.jit
    def read_and_pull_back(pyramid, upstream):
        def read_windows(pyramid):
            windows, *others = read(pyramid, indices, radius)
            return windows, others

        found, pull_back, others = jax.vjp(read_windows, pyramid, has_aux=True)
        return found, *others, *pull_back(upstream)

    *found, found_gradients = read_and_pull_back(pyramid, upstream)
    ratios = np.array([cell_of(index)[3] for index in indices])
    jax.tree.map(np.testing.assert_array_equal, found, [windows, inside, ratios])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found_gradients, gradients
    )


def test_images_of_a_batch_have_windows_of_their_own():
    rng = np.random.default_rng(3)
    pyramids = [random_pyramid(rng) for _ in range(2)]
    indices = rng.integers(0, len(ALL), (2, 7))
    stacked = jax.tree.map(lambda *maps: jnp.stack(maps), *pyramids)
    found = jax.jit(jax.vmap(lambda pyramid, i: read(pyramid, i, 1)))(stacked, indices)
    for i, pyramid in enumerate(pyramids):
        expected = read(pyramid, indices[i], 1)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), found, expected)


def test_windows_of_no_anchors():
    windows, inside, ratios = read(random_pyramid(np.random.default_rng(4)), np.zeros(0, int), 1)
    assert windows.shape == (0, 3, 3, 2) and inside.shape == (0, 3, 3, 1)
    assert ratios.shape == (0,)
