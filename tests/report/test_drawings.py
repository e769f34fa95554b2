"""Drawings inside a page."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.report import drawings
from tests.report import samples


def decoded(uri):
    start, content = uri.split(",", 1)
    assert start == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content, validate=True))), np.int16)


@pytest.mark.parametrize(
    "size, expected",
    [
        ((60, 80), (315, 420)),
        ((1200, 300), (420, 105)),
        ((420, 420), (420, 420)),
        ((2, 3000), (1, 420)),
    ],
)
def test_long_sides_are_all_the_same(size, expected):
    drawing = decoded(drawings.data_uri(np.full((*size, 3), 200, np.uint8), [], [], []))
    assert drawing.shape == (*expected, 3)
    assert abs(drawing - 200).max() <= 2


@pytest.mark.parametrize("fields", [{}, {"score": 0.9}], ids=["object", "detection"])
def test_objects_are_tinted_where_their_masks_are(fields):
    grey = np.full((*samples.SIZE, 3), 128, np.uint8)
    triangle = [20, 20, 60, 20, 20, 50]
    found = samples.entry(1, 3, (20, 20, 60, 50), outline=triangle, **fields)
    drawing = decoded(drawings.data_uri(grey, [found], [1], ["cat"]))
    scale = 420 / 80
    tint = abs(drawing - 128).max(2)
    inside, below = (
        tint[round(28 * scale), round(30 * scale)],
        tint[round(45 * scale), round(55 * scale)],
    )
    assert inside > 20 and below <= 4


def test_an_object_without_a_finite_box_is_not_drawn():
    grey = np.full((*samples.SIZE, 3), 128, np.uint8)
    found = [samples.entry(1, kind, (10, 20, 30, 50), score=0.9) for kind in (3, 7)]
    broken = found[1] | {"bbox": [float("nan"), 20, float("inf"), 30]}
    expected = drawings.data_uri(grey, found[:1], [1], ["cat", "dog"])
    assert drawings.data_uri(grey, [broken, found[0]], [2, 1], ["cat", "dog"]) == expected


def test_an_empty_mask_is_no_trouble():
    nothing = samples.entry(1, 3, (20, 20, 20, 20), score=0.9)
    drawing = drawings.data_uri(np.zeros((*samples.SIZE, 3), np.uint8), [nothing], [1], ["cat"])
    assert decoded(drawing).shape == (315, 420, 3)


@pytest.mark.parametrize("fields", [{}, {"score": 0.9}], ids=["object", "detection"])
def test_an_object_without_a_mask_is_its_box(fields):
    grey = np.full((*samples.SIZE, 3), 128, np.uint8)
    found = samples.entry(1, 3, (20, 20, 60, 50), **fields)
    del found["segmentation"]
    change = abs(decoded(drawings.data_uri(grey, [found], [1], ["cat"])) - 128).max(2)
    scale = 420 / 80
    frame, inside = (
        change[round(35 * scale), round(20 * scale)],
        change[round(40 * scale), round(50 * scale)],
    )
    assert frame > 20 and inside <= 4
