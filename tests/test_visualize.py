"""What a picture of detections must show, on images plain enough to count pixels."""

import numpy as np
import pytest

from maskrcnn_jax import visualize

NAMES = ["circle", "square"]
GREY = np.full((100, 120, 3), 128, np.uint8)


def detections(*boxes):
    """Boxes with masks that fill them."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = [(np.ones((int(y1 - y0), int(x1 - x0)), np.float32), (int(y0), int(x0))) for x0, y0, x1, y1 in boxes]
    return boxes, [1] * len(boxes), np.linspace(0.9, 0.6, len(boxes)), masks


def changed(picture, image=GREY):
    return (picture != image).any(-1)


def test_nothing_found_leaves_the_image():
    picture = visualize.draw(GREY, *detections(), NAMES)
    np.testing.assert_array_equal(picture, GREY)
    assert picture is not GREY


def test_the_image_is_not_written_to():
    image = GREY.copy()
    visualize.draw(image, *detections([10, 40, 50, 80]), NAMES)
    np.testing.assert_array_equal(image, GREY)


def test_masks_are_translucent_with_a_full_rim():
    picture = visualize.draw(GREY, *detections([10, 40, 50, 80]), NAMES)
    color = np.array(visualize._color(0))
    np.testing.assert_allclose(picture[60, 30], 128 + (color - 128) * visualize._OPACITY / 255, atol=1)
    np.testing.assert_array_equal(picture[60, 10], color)
    assert not changed(picture)[42:, 55:].any() and not changed(picture)[85:].any()


def test_smaller_objects_are_drawn_over_larger_ones():
    boxes = [[30, 40, 60, 70], [5, 20, 100, 95]]  # The small one comes first.
    picture = visualize.draw(GREY, *detections(*boxes), NAMES)
    alone = visualize.draw(GREY, *detections(boxes[0]), NAMES)
    np.testing.assert_array_equal(picture[50, 30], alone[50, 30])


def test_full_masks_and_patches_look_the_same():
    boxes, labels, scores, patches = detections([10, 40, 50, 80], [30, 20, 115, 60])
    full = np.zeros((2, 100, 120), np.float32)
    for image, (patch, (y, x)) in zip(full, patches, strict=True):
        image[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    np.testing.assert_array_equal(
        visualize.draw(GREY, boxes, labels, scores, patches, NAMES),
        visualize.draw(GREY, boxes, labels, scores, full, NAMES),
    )


def test_empty_masks_keep_their_box():
    boxes, labels, scores, _ = detections([10, 40, 50, 80])
    for masks in (np.zeros((1, 100, 120)), [(np.zeros((0, 5), np.float32), (0, 0))]):
        picture = visualize.draw(GREY, boxes, labels, scores, masks, NAMES)
        assert changed(picture)[60, 10] and not changed(picture)[60, 30]


@pytest.mark.parametrize("box", [[0, 0, 20, 20], [100, 0, 119, 15], [90, 90, 119, 99], [0, 85, 8, 99], [0, 0, 119, 99]])
def test_labels_stay_inside_the_picture(box):
    boxes, labels, scores, _ = detections(box)
    empty = np.zeros((1, 100, 120))
    picture = visualize.draw(GREY, boxes, labels, scores, empty, ["x"])
    x0, y0, x1, y1 = box
    picture[y0 : y1 + 1, [x0, x1]] = picture[[y0, y1], x0 : x1 + 1] = 128
    top, bottom = np.flatnonzero(changed(picture).any(1))[[0, -1]]
    left, right = np.flatnonzero(changed(picture).any(0))[[0, -1]]
    # The whole plate is there: its height is that of the text, and its width that of "x 0.90".
    assert 12 <= bottom - top <= 16 and 30 <= right - left <= 50


def test_labels_avoid_one_another():
    first = visualize._place(np.array([20, 50, 60, 90]), (40, 15), (120, 100), [])[0]
    second, covered = visualize._place(np.array([20, 50, 60, 90]), (40, 15), (120, 100), [first])
    assert first == (20, 35, 60, 50)
    assert covered == 0 and visualize._overlap(first, second) == 0


def test_a_crowd_keeps_few_labels():
    grid = [[x, y, x + 8, y + 8] for x in range(0, 240, 10) for y in range(20, 240, 10)]
    image = np.full((256, 256, 3), 128, np.uint8)
    boxes, labels, scores, _ = detections(*grid)
    plain = np.zeros((len(grid), 0, 0))
    masks = [(mask, (0, 0)) for mask in plain]
    labelled = visualize.draw(image, boxes, labels, scores, masks, NAMES)
    assert (labelled == visualize._color(0)).all(-1).sum() > 500  # The plate of the best one.
    assert changed(labelled, image).mean() < 0.45  # 0.29 are the outlines of the boxes.


def test_scale_enlarges_the_picture():
    picture = visualize.draw(GREY, *detections([10, 40, 50, 80]), NAMES, scale=3)
    assert picture.shape == (300, 360, 3)
    assert changed(picture, np.full_like(picture, 128))[180, 30]
    assert not changed(picture, np.full_like(picture, 128))[:, 155:].any()


def test_colors_differ():
    colors = np.array([visualize._color(i) for i in range(40)], float)
    distance = np.linalg.norm(colors[:, None] - colors, axis=-1) + 1e3 * np.eye(40)
    assert distance.min() > 15
    assert distance[np.arange(39), np.arange(1, 40)].min() > 80


def test_contact_sheet_places_pictures_in_rows():
    pictures = [np.full((20 + i, 30, 3), i, np.uint8) for i in range(5)]
    sheet = visualize.contact_sheet(pictures, 2)
    assert sheet.shape == (3 * 24 + 4 * 4, 2 * 30 + 3 * 4, 3)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, 2)
        assert (sheet[4 + row * 28 + 12, 4 + column * 34 + 15] == i).all()
        assert (sheet == i).all(-1).sum() == picture.shape[0] * 30
    assert (sheet[-20:-4, -34:-4] == 255).all()


def test_contact_sheet_needs_a_picture():
    with pytest.raises(ValueError, match="at least one picture"):
        visualize.contact_sheet([], 3)
