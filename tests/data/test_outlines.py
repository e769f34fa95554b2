"""Masks of annotations: the notations that have one meaning, and the ones that have none."""

import json

import numpy as np
import pytest

from maskrcnn_jax.data import outlines, rle
from maskrcnn_jax.data.outlines import Unusable

HEIGHT, WIDTH = 40, 60
SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]
CORNERS = [[10, 5], [30, 5], [30, 25], [10, 25]]
BITMAP = np.zeros((HEIGHT, WIDTH), np.uint8)
BITMAP[5:25, 10:30] = 1
RUNS = rle.encode_bitmap(BITMAP)
COUNTS = rle.run_lengths(RUNS["counts"]).tolist()


def read(value):
    return outlines.read(value, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "value",
    [
        SQUARE,
        [SQUARE],
        [[SQUARE]],
        CORNERS,
        [CORNERS],
        [[CORNERS]],
        [{"x": x, "y": y} for x, y in CORNERS],
        [[str(x) for x in SQUARE]],
        json.dumps([SQUARE]),
    ],
)
def test_polygons_in_any_nesting(value):
    assert read(value) == ([SQUARE], [])


@pytest.mark.parametrize(
    "value",
    [
        RUNS,
        [RUNS],
        json.dumps(RUNS),
        RUNS | {"size": [40.0, "60"]},
        RUNS | {"counts": str(RUNS["counts"].encode())},
        RUNS | {"counts": COUNTS},
        RUNS | {"counts": [float(x) for x in COUNTS]},
        RUNS | {"counts": json.dumps(COUNTS)},
    ],
)
def test_run_lengths_in_any_notation(value):
    mask, repaired = read(value)
    assert repaired == [] and mask["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(rle.decode(mask, HEIGHT, WIDTH), BITMAP)


@pytest.mark.parametrize("mask", [[SQUARE, [1, 1, 5, 1, 5, 5]], RUNS, RUNS | {"counts": COUNTS}])
def test_a_good_mask_is_the_same_object(mask):
    found, repaired = read(mask)
    assert found is mask and repaired == []


@pytest.mark.parametrize("value", [None, [], {}, ""])
def test_there_may_be_no_mask(value):
    assert read(value) == (None, [])


@pytest.mark.parametrize(
    "value, problem",
    [
        ([[1, 2, 3, 4]], outlines.TOO_FEW),
        ([[1, 2, 3, 4, 5, 6, 7]], outlines.ODD),
        ([[1, 2, 3, 4, 5, "x"]], outlines.NO_NUMBERS),
        ([[1, 2, 3, 4, 5, float("nan")]], outlines.NO_NUMBERS),
        ([[1, 2, 3, 4, 5, 1e12]], outlines.NO_NUMBERS),
        (7, outlines.NO_MASK),
        ("a mask", outlines.NO_MASK),
        ("7", outlines.NO_MASK),
        ([[[[[SQUARE]]]]], outlines.NO_MASK),
        ([[70, 5, 90, 5, 90, 25]], outlines.OUTSIDE),
        ([[60, 5, 80, 5, 80, 25]], outlines.OUTSIDE),  # Pixels of the image end at 60.
        ([[-9, 5, 0, 5, 0, 25]], outlines.OUTSIDE),
        ([[-1e6, 5, -1e5, 5, -1e5, 25]], outlines.OUTSIDE),
        ({"counts": COUNTS}, outlines.NO_MASK),
        (RUNS | {"size": [60, 40]}, outlines.OTHER_SIZE),
        (RUNS | {"counts": COUNTS[:-1]}, outlines.BAD_RUNS),
        (RUNS | {"counts": [*COUNTS, 1]}, outlines.BAD_RUNS),
        (RUNS | {"counts": [-1, HEIGHT * WIDTH + 1]}, outlines.BAD_RUNS),
        (RUNS | {"counts": [COUNTS]}, outlines.BAD_RUNS),
        (RUNS | {"counts": "b'\\xff'"}, outlines.BAD_RUNS),
        (RUNS | {"counts": "b'"}, outlines.BAD_RUNS),
    ],
)
def test_what_cannot_be_read(value, problem):
    with pytest.raises(Unusable) as raised:
        read(value)
    assert str(raised.value) == problem


@pytest.mark.parametrize("part", [[30.0, 25.0], [], [1, 2, 3, 4, 5], ["x"] * 6, 7])
def test_a_stray_part_is_left_out(part):
    assert read([part, SQUARE]) == ([SQUARE], [outlines.PARTS])


def test_a_far_corner_is_cut():
    (polygon,), repaired = read([[10, 5, 1e6, 5, 10, 25]])
    assert repaired == [outlines.FAR] and max(polygon) <= 2 * WIDTH


def test_an_outline_of_millions_of_pixels_is_refused():
    zigzag = [0.0, 0.0, 59.0, 39.0] * 40_000  # Each edge is 59 pixels long: 4.7 million in all.
    with pytest.raises(Unusable, match="longer than four million pixels"):
        read([zigzag])
    with pytest.raises(Unusable, match="longer than four million pixels"):
        read([[0.5, 0, 1e6, 39.0] * 33_000])  # It is as long after it is cut.
    shorter = zigzag[: len(zigzag) // 4 * 3]
    assert read([shorter]) == ([shorter], [])


@pytest.mark.parametrize("seed", range(8))
def test_bounds_of_run_lengths_are_those_of_the_pixels(seed):
    rng = np.random.default_rng(seed)
    bitmap = rng.random((9, 7)) < rng.choice([0.02, 0.1, 0.5])
    bitmap[rng.integers(9), rng.integers(7)] = True
    rows, columns = np.nonzero(bitmap)
    found = outlines.bounds(rle.encode_bitmap(bitmap.astype(np.uint8)))
    left, top = columns.min(), rows.min()
    assert found == (left, top, columns.max() - left + 1, rows.max() - top + 1)


def test_bounds_of_polygons_and_of_nothing():
    assert outlines.bounds([SQUARE, [1.5, 7, 4, 7, 4, 30]]) == (1.5, 5, 28.5, 25)
    assert outlines.bounds({"size": [9, 7], "counts": [63]}) is None
    assert outlines.bounds({"size": [9, 7], "counts": [5, 0, 58]}) is None
