"""Masks of any form stay masks through every transform, and cost no more than their size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_jax.data import masks, outlines, rle
from maskrcnn_jax.data import sample as samples
from maskrcnn_jax.data.dataset import Example
from maskrcnn_jax.data.sample import Window
from tests.fuzz import guard, mutations

HEIGHT, WIDTH = 37, 53
near = st.floats(-100, 150, allow_nan=False)
coordinates = near | st.floats(-1e12, 1e12) | st.sampled_from((0, 53, 37, -0.0, 1e-300, 26.5))
polygons = st.lists(coordinates, min_size=6, max_size=24)
good = [[3, 4, 30, 4.5, 28, 30, 2, 25], [40, 10, 50, 10, 50, 20]]
randoms = st.randoms(use_true_random=False)


def given_mask(rng):
    """A mask as a tool may write it, mostly wrong."""
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[5:20, 10:40] = True
    compressed = rle.encode_bitmap(bitmap)
    counts = rle.run_lengths(compressed["counts"]).tolist()
    plain = {"size": [HEIGHT, WIDTH], "counts": counts}
    return mutations.value(rng, rng.choice((good, good[0], plain, compressed)))


def usable(value):
    try:
        return outlines.read(value, HEIGHT, WIDTH)[0]
    except outlines.Unusable:
        return None


@given(rng=randoms)
def test_what_is_read_can_be_drawn(rng):
    value = given_mask(rng)
    with guard.limits("test_what_is_read_can_be_drawn", len(str(value)[:10_000])):
        mask = usable(value)
        if mask is None:
            return
        encoded = rle.encode(mask, HEIGHT, WIDTH)
        assert usable(encoded) == encoded or outlines.bounds(encoded) is None
        pixels = rle.decode(mask, HEIGHT, WIDTH)
        assert pixels.shape == (HEIGHT, WIDTH) and set(np.unique(pixels)) <= {0, 1}
        found = outlines.bounds(encoded)
        if found is None:
            assert not pixels.any()
            return
        x, y, width, height = found
        rows, columns = np.nonzero(pixels)
        assert (x, x + width) == (columns.min(), columns.max() + 1)
        assert (y, y + height) == (rows.min(), rows.max() + 1)


@given(parts=st.lists(polygons, min_size=1, max_size=3))
def test_outlines(parts):
    with guard.limits("test_outlines", 100 * len(parts)):
        mask = usable(parts)
        if mask is not None:
            union = np.zeros((HEIGHT, WIDTH), np.uint8)
            for part in mask:
                union |= rle.decode([part], HEIGHT, WIDTH)
            np.testing.assert_array_equal(rle.decode(mask, HEIGHT, WIDTH), union)


@given(rng=randoms, parts=st.lists(polygons, min_size=1, max_size=2), is_bitmap=st.booleans())
def test_transforms(rng, parts, is_bitmap):
    with guard.limits("test_transforms", 10_000):
        mask = usable(parts) or good
        if is_bitmap:
            mask = rle.encode(mask, HEIGHT, WIDTH)
        box = np.array([[rng.uniform(0, 50), rng.uniform(0, 34)] * 2], np.float32)
        box[:, 2:] += np.float32(rng.choice((1e-4, 0.5, 3, 30)))
        box = np.clip(box, 0, [WIDTH, HEIGHT] * 2).astype(np.float32)
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        sample = samples.whole(Example(image, 1, box, np.array([1], np.int32), [mask]))
        for _ in range(rng.randint(0, 4)):
            sample = _transformed(rng, sample)
        size = sample.image.shape[:2]
        for placed, box in zip(sample.masks, sample.boxes, strict=True):
            assert np.isfinite(box).all()
            shown = masks.to_window(placed, 0, 0, *size)
            assert np.isfinite(masks.bounds(shown, 0, 0)).all()
            bitmap = masks.to_bitmap(placed, size)
            assert bitmap.shape == size and set(np.unique(bitmap)) <= {0, 255}
            if (np.float32(box[2:]) > np.float32(box[:2])).all():
                assert masks.to_crop(placed, box, 28).shape == (28, 28)


def _transformed(rng, sample):
    height, width = sample.image.shape[:2]
    match rng.randrange(4):
        case 0:
            return samples.flip_horizontally(sample)
        case 1:
            return samples.flip_vertically(sample)
        case 2:
            return samples.resize(sample, (rng.randint(1, 90), rng.randint(1, 90)))
    top, left = rng.randrange(height), rng.randrange(width)
    rows, columns = rng.randint(1, height - top), rng.randint(1, width - left)
    return samples.crop(sample, Window(top, left, rows, columns))
