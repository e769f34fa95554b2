"""Names beside objects: the places of their plates, and skipped or shortened names."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.drawing import captions

NONE = np.zeros((0, 4))
BLUE = np.array([0, 0, 255], np.uint8)


def written(texts, boxes, size=(120, 100), order=None):
    """Draws texts on blue plates over a grey image."""
    image = Image.new("RGB", size, (128, 128, 128))
    boxes = np.array(boxes, float).reshape(-1, 4)
    captions.write(
        image,
        texts,
        boxes,
        np.tile(BLUE, (len(boxes), 1)),
        range(len(boxes)) if order is None else order,
        seen(boxes, size),
    )
    return np.asarray(image)


def seen(boxes, size=(120, 100)):
    """The object that is seen at each pixel, if later boxes lie over earlier ones."""
    owner = np.zeros(size[::-1], np.uint16)
    for i, (x0, y0, x1, y1) in enumerate(np.asarray(boxes, int).tolist()):
        owner[max(y0, 0) : y1, max(x0, 0) : x1] = i + 1
    return owner


def place(box, plate, placed=NONE, others=()):
    """The place of the plate of the last of some boxes."""
    owner = seen([*others, box])
    areas = np.maximum(np.bincount(owner.ravel(), minlength=len(others) + 2)[1:], 1)
    found = captions.place(len(others), np.array(box), plate, placed, owner, areas)
    return None if found is None else found.tolist()


def bounds(image):
    changed = (image != 128).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_a_plate_stands_on_its_box():
    assert place([20, 50, 60, 90], (40, 15)) == [20, 35, 60, 50]


def test_plates_avoid_one_another():
    first = np.array([[20, 35, 60, 50]])
    # A plate below the box would have to be moved into the image.
    assert place([20, 40, 100, 95], (40, 15), first) == [60, 25, 100, 40]


def test_a_plate_hides_no_other_object():
    assert place([20, 50, 60, 80], (40, 15), others=[[20, 36, 30, 46]]) == [20, 80, 60, 95]


def test_a_plate_may_lie_over_a_far_larger_object():
    assert place([20, 50, 60, 80], (20, 10), others=[[0, 0, 120, 100]]) == [20, 40, 40, 50]


def test_a_plate_hides_little_of_its_object():
    """In an image of its size, an object has room for a small plate only."""
    assert place([0, 0, 120, 100], (40, 15)) == [0, 0, 40, 15]
    assert place([0, 0, 120, 100], (80, 40)) is None


def test_a_plate_stands_beside_its_object_where_there_is_no_room_above_or_below():
    left, _, right, _ = bounds(written(["x"], [[50, 0, 60, 12]], (120, 15)))
    assert left >= 60 or right <= 50


def test_there_may_be_no_place():
    everywhere = np.array([[0, 0, 120, 100]])
    assert place([20, 50, 60, 90], (40, 15), everywhere) is None


def test_no_plate_hides_small_objects():
    """The first one neither."""
    others = [[x, y, x + 8, y + 8] for x in range(0, 112, 9) for y in range(0, 92, 9)]
    assert place([20, 50, 40, 60], (40, 15)) is not None
    assert place([20, 50, 40, 60], (40, 15), others=others) is None


@pytest.mark.parametrize(
    "box", [[0, 0, 20, 20], [100, 0, 119, 15], [90, 90, 119, 99], [0, 85, 8, 99], [0, 0, 120, 100]]
)
def test_plates_stay_whole_inside_the_image(box):
    left, top, right, bottom = bounds(written(["x 0.90"], [box]))
    assert 12 <= bottom - top <= 19 and 25 <= right - left <= 50


@pytest.mark.parametrize("size", [(40, 100), (20, 40), (25, 60)])
def test_a_text_wider_than_the_image_is_cut_off(size):
    image = written(["a very long name 0.90"], [[5, 5, 10, 10]], size)
    left, top, right, bottom = bounds(image)
    assert bottom - top == 12 and 15 <= right - left <= size[0]


def test_lines_are_joined():
    np.testing.assert_array_equal(
        written(["a\nb"], [[5, 40, 60, 60]]), written(["a b"], [[5, 40, 60, 60]])
    )


def test_an_image_too_small_for_letters_has_none():
    assert (written(["name"], [[0, 0, 5, 5]], (100, 10)) == 128).all()
    assert (written(["name"], [[0, 0, 5, 5]], (10, 100)) == 128).all()


def test_letters_grow_with_the_image():
    heights = [
        np.subtract(*bounds(written(["x"], [[50, 50, 90, 90]], (side, side)))[3:0:-2])
        for side in (100, 480, 2000)
    ]
    assert heights[0] == heights[1] == 12 and 45 <= heights[2] <= 50


def test_letters_grow_with_the_object():
    heights = [
        np.subtract(*bounds(written(["x"], [[50, 50, 50 + side, 50 + side]], (480, 480)))[3:0:-2])
        for side in (20, 80, 400)
    ]
    assert heights == [12, 15, 19]


def test_the_most_important_are_named_first():
    crowd = [[x, y, x + 8, y + 8] for x in range(0, 240, 10) for y in range(20, 240, 10)]
    first = written(["x"] * len(crowd), crowd, (256, 256), order=[300])
    image = written(["x"] * len(crowd), crowd, (256, 256), order=[300, *range(300)])
    plate = (first != 128).any(-1)
    np.testing.assert_array_equal(image[plate], first[plate])
    assert (image != 128).any(-1).mean() < 0.13


def test_letters_contrast_with_their_plate():
    assert captions._ink(BLUE) == "white"
    assert captions._ink(np.array([255, 255, 0], np.uint8)) == "black"


def test_a_title_is_on_top():
    image = np.full((50, 80, 3), 7, np.uint8)
    titled = captions.title(image, "image 1")
    np.testing.assert_array_equal(titled[-50:], image)
    strip = titled[:-50]
    assert (
        strip.shape[1] == 80
        and 10 < len(strip) < 25
        and (strip < 100).any()
        and (strip[0] == 255).all()
    )
    assert captions.title(image, "a title that is much too long").shape == titled.shape
