"""Anchors against torchvision's published numbers and a loop over cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops import anchors

RATIOS = (0.5, 1.0, 2.0)
SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)


@pytest.mark.parametrize(
    "size, expected",
    [
        (32, [(23, 11), (16, 16), (11, 23)]),
        (64, [(45, 23), (32, 32), (23, 45)]),
        (128, [(91, 45), (64, 64), (45, 91)]),
        (256, [(181, 91), (128, 128), (91, 181)]),
        (512, [(362, 181), (256, 256), (181, 362)]),
    ],
)
def test_cell_anchors_golden(size, expected):
    cell = anchors.cell_anchors(size, RATIOS)
    assert cell.dtype == np.float32
    np.testing.assert_array_equal(cell, [(-x, -y, x, y) for x, y in expected])


def test_cell_anchors_round_half_to_even():
    np.testing.assert_array_equal(anchors.cell_anchors(5, (1.0,)), [[-2, -2, 2, 2]])
    np.testing.assert_array_equal(anchors.cell_anchors(7, (1.0,)), [[-4, -4, 4, 4]])


def test_a_single_level_has_all_sizes_in_each_cell():
    shapes, canvas = {4: (2, 3)}, jnp.array([30, 48])
    grids = anchors.pyramid_anchors(shapes, canvas, (32, 64), RATIOS, stride="level", rounded=False)
    grid, inside = (np.asarray(x) for x in grids[4])
    assert grid.shape == (6 * 2 * 3, 4) and inside.all()
    cells = grid.reshape(2, 3, 2, 3, 4)
    first = anchors.cell_anchors(64, RATIOS, rounded=False)
    np.testing.assert_allclose(cells[1, :, 0, 0], first, rtol=1e-6)
    np.testing.assert_allclose(cells[0, 1, 1, 2] - cells[0, 1, 0, 0], [32, 16, 32, 16], atol=1e-4)


def test_anchors_of_two_cells_start_on_the_corner_and_run_along_the_row():
    build = jax.jit(
        lambda extent, canvas: anchors.grid_anchors((1, 2), extent, canvas, [32], RATIOS)
    )
    grid, inside = build(jnp.array([1, 2]), jnp.array([16, 32]))
    first = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    both = [([x0, y0, x1, y1], [x0 + 16, y0, x1 + 16, y1]) for x0, y0, x1, y1 in first]
    np.testing.assert_array_equal(grid, [box for pair in both for box in pair])
    assert inside.all()


def pyramid_shapes(height, width):
    return {level: (-(-height // 2**level), -(-width // 2**level)) for level in range(2, 7)}


def pyramid_anchors(shapes, canvas):
    build = jax.jit(lambda size: anchors.pyramid_anchors(shapes, size, SIZES, RATIOS))
    return jax.tree.map(np.asarray, build(jnp.array(canvas)))


def test_stride_of_p6_is_the_whole_quotient_of_canvas_and_map():
    p6 = pyramid_anchors(pyramid_shapes(800, 1088), (800, 1088))[6][0].reshape(3, 13, 17, 4)
    np.testing.assert_array_equal(p6[:, 1, 0] - p6[:, 0, 0], np.tile([0, 61] * 2, (3, 1)))
    np.testing.assert_array_equal(p6[:, 0, 1] - p6[:, 0, 0], np.tile([64, 0] * 2, (3, 1)))


@pytest.mark.parametrize(
    "canvas, total", [((800, 1088), 217_413), ((800, 1344), 268_569), ((1024, 1024), 261_888)]
)
def test_number_of_anchors(canvas, total):
    def build(canvas_size):
        return anchors.pyramid_anchors(shapes, canvas_size, SIZES, RATIOS)

    shapes = pyramid_shapes(*canvas)
    grids = jax.eval_shape(build, jnp.array(canvas))
    assert sum(len(grid) for grid, _ in grids.values()) == total


def test_pyramid_equals_a_loop_over_level_ratio_row_column():
    shapes, canvas = pyramid_shapes(96, 160), (96, 160)
    grids = pyramid_anchors(shapes, canvas)
    assert list(grids) == [2, 3, 4, 5, 6]
    expected = []
    for (height, width), size in zip(shapes.values(), SIZES, strict=True):
        for ratio in RATIOS:
            half_h = round(size * ratio**0.5 / 2)
            half_w = round(size / ratio**0.5 / 2)
            for y in range(height):
                for x in range(width):
                    row, column = y * (canvas[0] // height), x * (canvas[1] // width)
                    expected.append([column - half_w, row - half_h, column + half_w, row + half_h])
    np.testing.assert_array_equal(np.concatenate([grid for grid, _ in grids.values()]), expected)


def test_anchors_of_a_canvas_do_not_depend_on_the_bucket():
    alone = pyramid_anchors(pyramid_shapes(96, 64), (96, 64))
    padded = pyramid_anchors(pyramid_shapes(192, 128), (96, 64))
    for level, (grid, inside) in padded.items():
        assert alone[level][1].all()
        assert not inside.all()
        np.testing.assert_array_equal(grid[inside], alone[level][0])


def test_anchors_that_are_not_rounded_are_detectron2s():
    half = 16 * np.sqrt(np.float64(2)), 16 / np.sqrt(np.float64(2))
    expected = [(*half,), (16, 16), half[::-1]]
    cell = anchors.cell_anchors(32, RATIOS, rounded=False)
    np.testing.assert_array_equal(cell, np.float32([(-x, -y, x, y) for x, y in expected]))
    # The anchors of Detectron2's own test, at the origin.
    cells = [anchors.cell_anchors(size, (0.25, 1.0, 4.0), rounded=False) for size in (32, 64)]
    np.testing.assert_array_equal(
        np.concatenate(cells),
        [(-32, -8, 32, 8), (-16, -16, 16, 16), (-8, -32, 8, 32)]
        + [(-64, -16, 64, 16), (-32, -32, 32, 32), (-16, -64, 16, 64)],
    )


def test_the_stride_of_a_level_does_not_depend_on_the_canvas():
    def build(canvas):
        return anchors.pyramid_anchors(shapes, canvas, SIZES, RATIOS, stride="level")

    shapes = pyramid_shapes(800, 1088)
    p6 = np.asarray(jax.jit(build)(jnp.array([800, 1088]))[6][0]).reshape(3, 13, 17, 4)
    np.testing.assert_array_equal(p6[:, 1, 0] - p6[:, 0, 0], np.tile([0, 64] * 2, (3, 1)))
    np.testing.assert_array_equal(p6[:, 0, 1] - p6[:, 0, 0], np.tile([64, 0] * 2, (3, 1)))
