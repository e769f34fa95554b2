"""COCO's three mask formats."""

import subprocess
import sys

import numpy as np
import pytest

from maskrcnn_jax.data import rle

SQUARE = [2, 1, 6, 1, 6, 5, 2, 5]  # Columns 2 to 5, rows 1 to 4.


def test_the_three_kinds_of_masks_agree():
    expected = np.zeros((8, 10), np.uint8)
    expected[1:5, 2:6] = 1
    column = [4, 4]  # Runs are column-major: four pixels of the object, then four outside.
    uncompressed = {"size": [8, 10], "counts": [17, *column, *column, *column, 4, 80 - 17 - 28]}
    compressed = rle.encode([SQUARE], 8, 10)
    assert isinstance(compressed["counts"], str) and compressed["size"] == [8, 10]
    for mask in ([SQUARE], uncompressed, compressed):
        pixels = rle.decode(mask, 8, 10)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, expected)
        assert rle.encode(mask, 8, 10) == compressed


def test_polygons_of_one_object_are_united():
    shifted = [x + 3 if i % 2 == 0 else x for i, x in enumerate(SQUARE)]
    pixels = rle.decode([SQUARE, shifted], 8, 10)
    np.testing.assert_array_equal(pixels, np.pad(np.ones((4, 7), np.uint8), ((1, 3), (2, 1))))


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_read_as_written(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 10 ** rng.integers(1, 6), rng.integers(1, 40))
    if seed % 2:
        lengths[0] = 0
    encoded = rle.encode(
        {"size": [int(lengths.sum()), 1], "counts": lengths.tolist()}, int(lengths.sum()), 1
    )
    np.testing.assert_array_equal(rle.run_lengths(encoded["counts"]), lengths)


def test_a_bitmap_is_encoded():
    bitmap = np.random.default_rng(0).integers(0, 2, (8, 10))
    encoded = rle.encode_bitmap(bitmap * 255)
    assert encoded["size"] == [8, 10]
    np.testing.assert_array_equal(rle.decode(encoded, 8, 10), bitmap)


@pytest.mark.parametrize("seed", range(20))
def test_a_polygon_may_be_drawn_in_pieces(monkeypatch, seed):
    """Pieces bound the memory; the pixels are the same."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 60, 2).tolist()
    points = random.uniform([-width, -height], [2 * width, 2 * height], (40, 2))
    points = points.round() if seed % 2 else points
    polygons = [points[:25].ravel().tolist(), points[25:].ravel().tolist(), [1, 1, 9, 1, 9, 9]]
    whole = rle.decode(polygons, height, width)
    monkeypatch.setattr(rle, "_MOST_STEPS", 1)
    np.testing.assert_array_equal(rle.decode(polygons, height, width), whole)


def test_many_points_take_little_memory():
    """A training target of 112 cells; drawn at once, the outline would take two gigabytes."""
    code = "rle.encode([[-112.0, 0.0, 224.0, 112.0] * 40_000], 112, 112)"
    limit = "import resource; used = int(open('/proc/self/statm').read().split()[0]) * 4096"
    limit += "; resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)"
    command = f"from maskrcnn_jax.data import rle; {limit}; {code}"
    subprocess.run([sys.executable, "-c", command], check=True)
