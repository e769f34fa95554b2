"""RoIPool against values by hand, a loop over cells and torchvision's kernel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from maskrcnn_jax.ops.roi_pooling.maxima import multilevel_roi_pool
from maskrcnn_jax.ops.roi_pooling.placement import assign_levels
from tests import oracles
from tests.conftest import QUICK_COMPILE

jit = partial(jax.jit, compiler_options=QUICK_COMPILE)
CANVAS = 80, 112


def pool_and_pull_back(pyramid, boxes, canvas, resolution=2):
    """Pooled features, and the gradient of the sum of their sines."""
    pooled, pull_back = jax.vjp(
        lambda p: multilevel_roi_pool(p, boxes, canvas, resolution=resolution), pyramid
    )
    return pooled, pull_back(jnp.cos(pooled))[0]


pool = jit(pool_and_pull_back, static_argnames="resolution")


def random_pyramid(seed, levels=(2, 3), decimals=1):
    """Features of few different numbers, so that many cells are equal."""
    rng = np.random.default_rng(seed)
    shapes = {level: (-(-CANVAS[0] // 2**level), -(-CANVAS[1] // 2**level), 2) for level in levels}
    return {
        level: rng.normal(size=shape).round(decimals).astype(np.float32)
        for level, shape in shapes.items()
    }


def random_boxes(seed):
    """Boxes inside, across and outside the image, some inside out, with corners on half cells."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-0.3, 1.3, (40, 2)) * CANVAS[::-1]
    sizes = np.exp(rng.uniform(np.log(0.5), np.log(4 * CANVAS[1]), (40, 2)))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
    boxes[:20] = boxes[:20].round()
    boxes[18:22] = boxes[18:22, [2, 1, 0, 3]]
    return boxes.astype(np.float32)


def expected(pyramid, boxes, resolution):
    levels = np.asarray(assign_levels(jnp.asarray(boxes), tuple(pyramid)))
    pooled = np.zeros((len(boxes), resolution, resolution, 2), np.float32)
    gradients = {level: np.zeros(x.shape, np.float32) for level, x in pyramid.items()}
    for r, level in enumerate(levels.tolist()):
        values, cells = oracles.roi_pool(pyramid[level], boxes[r : r + 1], 0.5**level, resolution)
        pooled[r] = values[0]
        for i, j, c in np.ndindex(cells.shape[1:]):
            if cells[0, i, j, c] >= 0:
                gradients[level].reshape(-1, 2)[cells[0, i, j, c], c] += np.cos(values[0, i, j, c])
    return pooled, gradients


@pytest.mark.parametrize(
    "box, pooled",
    [
        ([0, 0, 12, 12], [11, 13, 31, 33]),  # Cells 0 to 3, the last one included.
        ([1.99, 1.99, 12, 12], [11, 13, 31, 33]),
        # Half a cell is rounded up: three cells, and the middle one is in both bins.
        ([2, 2, 12, 12], [22, 23, 32, 33]),
        ([6, 8, 6, 8], [22, 22, 22, 22]),  # One cell, in all bins.
        ([20, 20, 4, 4], [55, 55, 55, 55]),  # Inside out: one cell.
        # The map ends with the first of cells 7 to 9, which is in the first bin only.
        ([28, 28, 36, 36], [77, 0, 0, 0]),
        ([-12, 0, -8, 4], [0, 0, 0, 0]),
        ([-2, -2, 4, 4], [0, 1, 10, 11]),  # From -1, as halves are rounded away from zero.
    ],
)
def test_values_by_hand(box, pooled):
    features = 10.0 * jnp.arange(8.0).reshape(8, 1, 1) + jnp.arange(8.0).reshape(1, 8, 1)
    actual, _ = pool({2: features}, jnp.array([box], jnp.float32), jnp.array([32, 32]))
    assert actual.ravel().tolist() == pooled


@pytest.mark.parametrize("resolution", [2, 7])
def test_equals_a_loop_over_cells(resolution):
    for seed in range(3):
        pyramid, boxes = random_pyramid(seed), random_boxes(seed)
        pooled, gradients = pool(pyramid, boxes, jnp.array(CANVAS), resolution=resolution)
        expected_pooled, expected_gradients = expected(pyramid, boxes, resolution)
        np.testing.assert_array_equal(pooled, expected_pooled)
        for level in pyramid:
            assert gradients[level].any()
            np.testing.assert_allclose(
                gradients[level], expected_gradients[level], rtol=1e-5, atol=1e-5
            )


def test_bounds_are_rounded_as_in_the_kernel():
    """If a seventh of 1 to 400 cells is rounded up, a bin may have one cell more."""
    lengths = np.arange(1, 400, dtype=np.float32)
    boxes = np.stack([0 * lengths, 0 * lengths, 0 * lengths, lengths - 1], axis=1)
    features = np.random.default_rng(0).permutation(400).reshape(400, 1, 1).astype(np.float32)
    pooled, _ = pool({0: features}, boxes, jnp.array([400, 1]), resolution=7)
    np.testing.assert_array_equal(pooled, oracles.roi_pool(features, boxes, 1.0, 7)[0])
    exact = [[-(-(i + 1) * int(n) // 7) for i in range(7)] for n in lengths]
    rounded = [[oracles.bin_bounds(i, 0, int(n) - 1, 7, 400)[1] for i in range(7)] for n in lengths]
    assert exact != rounded


def test_the_first_of_equal_cells_gets_the_gradient():
    _, gradient = pool(
        {0: jnp.zeros((3, 5, 1))}, jnp.array([[1.0, 1.0, 4.0, 2.0]]), jnp.array([3, 5])
    )
    np.testing.assert_array_equal(
        gradient[0][:, :, 0], [[0, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 0]]
    )


def test_a_bin_without_a_number_has_the_lowest_one_and_no_gradient():
    features = jnp.array([jnp.nan, 1, jnp.nan, -jnp.inf, 0] * 3).reshape(3, 5, 1)
    pooled, gradient = pool({0: features}, jnp.array([[0.0, 0.0, 3.0, 0.0]]), jnp.array([3, 5]))
    assert pooled[0, :, :, 0].tolist() == [[1, np.finfo(np.float32).min]] * 2
    np.testing.assert_allclose(gradient[0].ravel(), [0, 2 * np.cos(1), *[0] * 13], rtol=1e-6)


def test_coordinates_that_are_not_finite_pool_zeros():
    boxes = jnp.array(
        [[np.nan] * 4, [0, np.nan, 50, 50], [-np.inf, -np.inf, np.inf, np.inf], [0, 0, 9, 9]]
    )
    pooled, gradient = pool(random_pyramid(0), jnp.tile(boxes, (10, 1)), jnp.array(CANVAS))
    assert not pooled.reshape(10, 4, -1)[:, :3].any() and pooled[3].any()
    assert all(np.isfinite(x).all() for x in gradient.values())


def test_no_boxes():
    pooled, gradient = pool(random_pyramid(0), jnp.zeros((0, 4)), jnp.array(CANVAS))
    assert pooled.shape == (0, 2, 2, 2) and not gradient[2].any()


def test_map_ends_with_the_canvas():
    pyramid, boxes, canvas = random_pyramid(1), random_boxes(1), (48, 90)
    cropped = {k: x[: -(-canvas[0] // 2**k), : -(-canvas[1] // 2**k)] for k, x in pyramid.items()}
    pooled, gradient = pool(pyramid, boxes, jnp.array(canvas))
    expected_pooled, expected_gradient = expected(cropped, boxes, 2)
    np.testing.assert_array_equal(pooled, expected_pooled)
    for level, x in expected_gradient.items():
        np.testing.assert_allclose(
            gradient[level][: x.shape[0], : x.shape[1]], x, rtol=1e-5, atol=1e-5
        )
        assert (
            not gradient[level][x.shape[0] :].any() and not gradient[level][:, x.shape[1] :].any()
        )


def test_bfloat16_features():
    pyramid = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_pyramid(2))
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), pyramid)
    (pooled, gradient), (expected, _) = (
        pool(p, random_boxes(2), jnp.array(CANVAS)) for p in (pyramid, exact)
    )
    assert pooled.dtype == gradient[2].dtype == jnp.bfloat16
    np.testing.assert_array_equal(pooled.astype(jnp.float32), expected)


def test_boxes_get_no_gradient():
    features, boxes = {0: jnp.zeros((3, 5, 1))}, jnp.array([[1.0, 1.0, 4.0, 2.0]])
    by_boxes = jax.grad(
        lambda b: multilevel_roi_pool(features, b, jnp.array([3, 5]), resolution=2).sum()
    )
    np.testing.assert_array_equal(jit(by_boxes)(boxes), np.zeros((1, 4)))


def test_images_spread_over_devices_are_pooled_as_alone():
    mesh, spec = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data")
    pool_batch = jax.shard_map(
        jax.vmap(pool_and_pull_back), mesh=mesh, in_specs=spec, out_specs=spec
    )
    batch = [
        (random_pyramid(i), random_boxes(i), np.array([80 - 8 * i, 112 - 8 * i])) for i in range(8)
    ]
    actual = jit(pool_batch)(*jax.tree.map(lambda *x: np.stack(x), *batch))
    alone = jax.tree.map(lambda *x: np.stack(x), *[pool(*image) for image in batch])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), actual, alone)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("resolution", [2, 7, 14])
def test_equals_the_kernel_of_torchvision(resolution):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    from maskrcnn_jax.parity.reference import torchvision

    roi_pool = torchvision.ops.roi_pool

    for seed in range(3):
        pyramid, boxes = random_pyramid(seed, levels=(2,), decimals=seed), random_boxes(seed)
        theirs = torch.tensor(pyramid[2].transpose(2, 0, 1)[None].copy(), requires_grad=True)
        expected = roi_pool(theirs, [torch.tensor(boxes)], resolution, 0.25)
        expected.backward(torch.cos(expected.detach()))
        pooled, gradient = pool(pyramid, boxes, jnp.array(CANVAS), resolution=resolution)
        np.testing.assert_array_equal(pooled, expected.detach().numpy().transpose(0, 2, 3, 1))
        np.testing.assert_allclose(
            gradient[2], theirs.grad[0].numpy().transpose(1, 2, 0), rtol=1e-5, atol=1e-5
        )
