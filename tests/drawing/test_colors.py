"""Colours of objects are distinct for all kinds of vision, most so between neighbours."""

import numpy as np

from maskrcnn_jax.drawing import colors


def grid_of_boxes(columns, rows, side=10, gap=2):
    x, y = np.meshgrid(np.arange(columns) * (side + gap), np.arange(rows) * (side + gap))
    near = np.stack([x.ravel(), y.ravel()], axis=1)
    return np.concatenate([near, near + side], axis=1)


def smallest(differences):
    return (differences + 9 * np.eye(len(differences))).min()


def test_oklab_of_known_colours():
    black, white, red = colors.oklab(np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], np.uint8))
    np.testing.assert_allclose(black, 0, atol=1e-6)
    np.testing.assert_allclose(white, [1, 0, 0], atol=1e-3)
    # This value was published with the definition.
    np.testing.assert_allclose(red, [0.628, 0.225, 0.126], atol=1e-3)


def test_red_and_green_differ_little_without_one_of_their_cones():
    red, green, blue = np.array([[[200, 0, 0]], [[112, 80, 0]], [[0, 0, 255]]], np.uint8)
    usual = np.linalg.norm(colors.oklab(red) - colors.oklab(green))
    assert colors.difference(red, green)[0, 0] < 0.5 * usual
    assert colors.difference(red, blue)[0, 0] > 0.2


def test_the_palette_starts_with_the_most_distinct_colours():
    palette = colors.palette()
    assert len(np.unique(palette, axis=0)) == len(palette) > 200
    gaps = [smallest(colors.difference(palette[:n], palette[:n])) for n in (2, 8, 16, 32, 100)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[1] > 0.1 and gaps[2] > 0.07 and gaps[4] > 0.01


def test_no_colour_is_repeated_while_the_palette_lasts():
    chosen = colors.by_instance(grid_of_boxes(10, 10))
    assert len(np.unique(chosen, axis=0)) == 100


def test_neighbours_differ_more_than_any_two_objects():
    boxes = grid_of_boxes(10, 10)
    chosen = colors.by_instance(boxes)
    differences = colors.difference(chosen, chosen)
    near = np.abs(boxes[:, None] - boxes[None]).max(-1) <= 12
    near &= ~np.eye(len(boxes), dtype=bool)
    assert differences[near].min() > 0.04 > 2 * smallest(differences)


def test_a_repeated_colour_is_far_from_its_twin():
    boxes = grid_of_boxes(30, 20)  # There are more boxes than colours.
    chosen = colors.by_instance(boxes)
    same = (chosen[:, None] == chosen[None]).all(-1) & ~np.eye(len(boxes), dtype=bool)
    distances = np.abs(boxes[:, None] - boxes[None]).max(-1)[same]
    assert distances.size and distances.min() > 30


def test_objects_without_extent_and_no_objects():
    assert colors.by_instance(np.zeros((0, 4))).shape == (0, 3)
    assert len(np.unique(colors.by_instance(np.zeros((3, 4))), axis=0)) == 3


def test_a_class_has_one_colour():
    chosen = colors.by_class(np.array([1, 2, 1, 1 + len(colors.palette())]))
    np.testing.assert_array_equal(chosen[[0, 0]], chosen[[2, 3]])
    assert (chosen[0] != chosen[1]).any()
