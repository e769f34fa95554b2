"""The level of an RoI, its sides in cells, and its place among joined maps."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskrcnn_jax.ops.roi_pooling.placement import (
    assign_levels,
    map_offsets,
    place,
    split_cells,
)

LEVELS = (2, 3, 4, 5)


@pytest.mark.parametrize(
    "side, level",
    [
        (112, 3),
        (111.99, 2),
        (223.9998, 3),
        (223.99985, 4),
        (224, 4),
        (448, 5),
        (447.9, 4),
        (0, 2),
        (1, 2),
        (5000, 5),
    ],
)
def test_level_follows_the_area(side, level):
    boxes = jnp.array([[0, 0, side, side], [0, 0, side / 2, 2 * side]], jnp.float32)
    assert assign_levels(boxes, LEVELS).tolist() == [level, level]


def test_level_of_meaningless_boxes_exists():
    boxes = jnp.array(
        [[0, 0, -9, 9], [jnp.nan] * 4, [0, 0, jnp.inf, 1], [-jnp.inf, -jnp.inf, jnp.inf, jnp.inf]]
    )
    assert set(assign_levels(boxes, LEVELS).tolist()) <= set(LEVELS)


def test_boxes_are_placed_in_cells_of_maps_that_end_with_the_canvas():
    boxes = jnp.array([[4.0, 8, 20, 40], [0, 16, 128, 240]])  # Levels 2 and 3.
    rois = place(boxes, jnp.array([96, 150]), LEVELS)
    assert rois.maps.tolist() == [0, 1]
    assert [x.tolist() for x in rois.rows] == [[2, 2], [10, 30], [24, 12]]
    assert [x.tolist() for x in rois.columns] == [[1, 0], [5, 16], [38, 19]]


def test_offsets_lead_to_the_map_of_each_roi():
    shapes = [(6, 5, 2), (3, 3, 2), (2, 2, 2)]
    maps = [np.full(shape, float(i)) for i, shape in enumerate(shapes)]
    cells = jnp.asarray(np.concatenate([x.reshape(-1, 2) for x in maps]))
    boxes = jnp.array([[0.0, 0, 300, 300], [0, 0, 9, 9], [0, 0, 150, 150]])  # Levels 4, 2, 3.
    rois = place(boxes, jnp.array([24, 20]), (2, 3, 4))
    offsets, widths = map_offsets(rois, shapes)
    assert offsets.tolist() == [39, 0, 30] and widths.tolist() == [2, 5, 3]
    assert cells[offsets, 0].tolist() == [2, 0, 1]
    for part, expected in zip(split_cells(cells, shapes), maps, strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(
    "rule, smallest",
    [
        ("torchvision", (111.99991608, 223.99984741, 447.99963379)),
        ("detectron2", (111.99998474, 223.99998474, 447.99990845)),
        ("mmdetection", (111.99994659, 223.99995422, 447.99990845)),
    ],
)
def test_the_libraries_round_levels_differently(rule, smallest):
    """The smallest sides of levels 3, 4 and 5 with PyTorch on a CPU, and the numbers before."""
    for level, side in enumerate(smallest, start=3):
        side = np.float32(side)
        below = np.nextafter(side, np.float32(0))
        boxes = jnp.zeros((2, 4)).at[:, 3].set(1).at[:, 2].set(jnp.array([side, below]))
        # The area of a box of height 1 is exact, so the square roots are the numbers themselves.
        squares = boxes.at[:, 2].set(jnp.array([_square_root_is(side), _square_root_is(below)]))
        assert assign_levels(squares, LEVELS, rule).tolist() == [level, level - 1]


def _square_root_is(root):
    """A float32 number whose square root rounds to ``root``."""
    number = np.float32(np.float64(root) ** 2)
    for candidate in (number, np.nextafter(number, np.float32(0)), np.nextafter(number, 1e9)):
        if np.sqrt(np.float32(candidate)) == root:
            return np.float32(candidate)
    raise AssertionError(f"no square root is {root}")
