"""Drawings of objects over plain images, whose pixels can be counted."""

import numpy as np
import pytest

from maskrcnn_jax import visualize
from maskrcnn_jax.drawing import captions, colors

NAMES = ["circle", "square"]
GREY = np.full((100, 120, 3), 128, np.uint8)


@pytest.fixture
def unnamed(monkeypatch):
    """Omits names from drawings, to count the other pixels."""
    monkeypatch.setattr(captions, "write", lambda *arguments: None)


def detections(*boxes):
    """Makes boxes with masks that fill them."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = [
        (np.ones((int(y1 - y0), int(x1 - x0)), np.float32), (int(y0), int(x0)))
        for x0, y0, x1, y1 in boxes
    ]
    return boxes, [1] * len(boxes), np.linspace(0.9, 0.6, len(boxes)), masks


def first_color():
    return colors.palette()[0].astype(float)


def tinted(color):
    return 128 + (color - 128) * visualize._OPACITY / 255


def changed(drawn, original=GREY):
    return (drawn != original).any(-1)


def test_nothing_found_leaves_the_image():
    drawn = visualize.draw(GREY, *detections(), NAMES)
    np.testing.assert_array_equal(drawn, GREY)
    assert drawn is not GREY


def test_the_image_is_not_written_to():
    image = GREY.copy()
    visualize.draw(image, *detections([10, 40, 50, 80]), NAMES)
    np.testing.assert_array_equal(image, GREY)


def test_masks_are_translucent_with_a_full_rim(unnamed):
    drawn = visualize.draw(GREY, *detections([10, 40, 50, 80]), NAMES)
    np.testing.assert_allclose(drawn[60, 30], tinted(first_color()), atol=1)
    for y, x in ((60, 10), (60, 49), (40, 30), (79, 30)):
        np.testing.assert_array_equal(drawn[y, x], first_color())
    rows, columns = np.nonzero(changed(drawn))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 79, 10, 49)


def test_tall_images_are_tinted_to_the_end(unnamed, monkeypatch):
    expected = visualize.draw(GREY, *detections([10, 40, 50, 95]), NAMES)
    monkeypatch.setattr(visualize, "_ROWS_PER_BAND", 30)
    np.testing.assert_array_equal(
        visualize.draw(GREY, *detections([10, 40, 50, 95]), NAMES), expected
    )


def test_lines_grow_with_the_image(unnamed):
    for scale, width in ((1, 1), (8, 2), (12, 3)):
        drawn = visualize.draw(GREY, *detections([10, 40, 50, 80]), NAMES, scale=scale)
        across = (np.abs(drawn[60 * scale, : 30 * scale].astype(float) - first_color()) <= 2).all(
            -1
        )
        assert across.sum() == width


def test_outlines_are_smooth(unnamed):
    """Pixels beside a sloping edge have a mixture of both colours."""
    slope = np.arange(40)[:, None] > np.arange(80)[None] // 2
    drawn = visualize.draw(GREY, np.array([[0, 0, 0, 0]]), [1], [0.9], [(slope, (30, 20))], NAMES)
    distance = np.abs(drawn.astype(float) - 128).sum(-1)
    partial = (distance > 0.05 * np.abs(first_color() - 128).sum()) & (
        distance < 0.35 * np.abs(first_color() - 128).sum()
    )
    assert 20 < partial[30:70, 20:100].sum() < 100


def test_thin_masks_are_drawn_in_full(unnamed):
    large = np.full((1000, 1200, 3), 128, np.uint8)  # Lines are 2.5 pixels wide at this size.
    drawn = visualize.draw(
        large, np.zeros((1, 4)), [1], [0.9], [(np.ones((1, 60)), (500, 300))], NAMES
    )
    np.testing.assert_array_equal(drawn[500, 330], first_color())


def test_smaller_objects_are_drawn_over_larger_ones(unnamed):
    boxes = [[30, 40, 60, 70], [5, 20, 100, 95]]  # The small box comes first.
    drawn = visualize.draw(GREY, *detections(*boxes), NAMES)
    alone = visualize.draw(GREY, *detections(boxes[0]), NAMES)
    # The tint of the large object does not show through.
    np.testing.assert_array_equal(drawn[42:68, 30:60], alone[42:68, 30:60])


def test_kinds_of_masks_look_the_same():
    boxes, labels, scores, patches = detections([10, 40, 50, 80], [30, 20, 115, 60])
    full = np.zeros((2, 100, 120), np.float32)
    for image, (patch, (y, x)) in zip(full, patches, strict=True):
        image[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    expected = visualize.draw(GREY, boxes, labels, scores, patches, NAMES)
    for masks in (full, full[:, None], list(full), full.astype(np.uint8), full > 0):
        np.testing.assert_array_equal(
            visualize.draw(GREY, boxes, labels, scores, masks, NAMES), expected
        )


def test_a_prediction_is_drawn_as_it_is():
    """`draw` takes the dictionary that `Detector` and torchvision return."""
    boxes, labels, scores, masks = detections([0, 0, 120, 100])
    prediction = {"boxes": boxes, "labels": np.array(labels), "scores": scores.astype(np.float32)}
    prediction["masks"] = masks[0][0].reshape(1, 1, 100, 120)
    drawn = visualize.draw(GREY, **prediction, names=NAMES)
    np.testing.assert_array_equal(drawn, visualize.draw(GREY, boxes, labels, scores, masks, NAMES))


def test_empty_masks_keep_their_box(unnamed):
    boxes, labels, scores, _ = detections([10, 40, 50, 80])
    for masks in (np.zeros((1, 100, 120)), [(np.zeros((0, 5), np.float32), (0, 0))]):
        drawn = visualize.draw(GREY, boxes, labels, scores, masks, NAMES)
        assert changed(drawn)[60, 10] and not changed(drawn)[60, 30]


def test_what_lies_outside_the_image_is_not_drawn(unnamed):
    boxes = np.array([[-30, -20, 40, 30], [100, 80, 170, 130], [200, 200, 220, 220]])
    masks = [(np.ones((y1 - y0, x1 - x0)), (y0, x0)) for x0, y0, x1, y1 in boxes.tolist()]
    drawn = visualize.draw(GREY, boxes, [1, 1, 2], [0.9, 0.8, 0.7], masks, NAMES)
    assert changed(drawn)[:30, :40].all() and changed(drawn)[80:, 100:].all()
    assert changed(drawn).sum() == 30 * 40 + 20 * 20


def test_scale_changes_the_size_of_the_image(unnamed):
    for scale, shape in ((3, (300, 360, 3)), (0.5, (50, 60, 3)), (1.5, (150, 180, 3))):
        drawn = visualize.draw(GREY, *detections([10, 40, 50, 80]), NAMES, scale=scale)
        assert drawn.shape == shape
        rows, columns = np.nonzero(changed(drawn, np.full_like(drawn, 128)))
        extent = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
        np.testing.assert_allclose(extent, np.array([40, 80, 10, 50]) * scale, atol=1)


@pytest.mark.parametrize("kind", ["grey", "one channel", "alpha", "float", "uint16"])
def test_every_kind_of_image_becomes_rgb(kind):
    image = {
        "grey": GREY[:, :, 0],
        "one channel": GREY[:, :, :1],
        "alpha": np.concatenate([GREY, np.zeros_like(GREY[:, :, :1])], axis=2),
        "float": GREY.astype(np.float32) / 255,
        "uint16": GREY.astype(np.uint16) * 257,
    }[kind]
    found = detections([10, 40, 50, 80])
    np.testing.assert_array_equal(
        visualize.draw(image, *found, NAMES), visualize.draw(GREY, *found, NAMES)
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": np.zeros((3, 100, 120), np.uint8)}, r"shape \(H, W\).*got \(3, 100, 120\)"),
        ({"image": GREY.astype(np.float32)}, "in \\[0, 1\\]"),
        ({"labels": [1, 1]}, "as many labels as boxes, 1, got 2"),
        ({"scores": []}, "as many scores as boxes, 1, got 0"),
        ({"labels": [3]}, "labels from 1 to 2.*got 3"),
        ({"labels": [0]}, "labels from 1 to 2.*got 0"),
        ({"boxes": np.array([[0, 0, np.nan, 5]])}, "finite boxes, got"),
        ({"masks": np.zeros((1, 50, 60))}, r"size of the image, \(100, 120\), got \(50, 60\)"),
        ({"crowd": [True, False]}, "as many crowd flags as boxes, 1, got 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, message):
    boxes, labels, scores, masks = detections([10, 40, 50, 80])
    arguments = {
        "image": GREY,
        "boxes": boxes,
        "labels": labels,
        "scores": scores,
        "masks": masks,
        "names": NAMES,
    }
    with pytest.raises(ValueError, match=message):
        visualize.draw(**(arguments | change))


def test_texts(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        captions,
        "write",
        lambda drawn, texts, *rest: seen.update(texts=texts, order=rest[2].tolist()),
    )
    boxes, _, _, masks = detections([10, 40, 50, 80], [5, 5, 100, 90])
    visualize.draw(GREY, boxes, [2, 1], [0.25, 0.125], masks, NAMES)
    assert seen == {"texts": ["square 0.25", "circle 0.12"], "order": [0, 1]}
    visualize.draw(GREY, boxes, [2, 1], None, masks, NAMES, crowd=[False, True])
    assert seen == {"texts": ["square", "circle (crowd)"], "order": [1, 0]}
    visualize.draw(GREY, boxes, [2, 1], [0.25, 0.125], masks, NAMES, show_scores=False)
    assert seen["texts"] == ["square", "circle"] and seen["order"] == [0, 1]
    visualize.draw(GREY, boxes, [2, 1], [0.25, 0.125], masks, NAMES, show_names=False)
    assert seen["texts"] == ["0.25", "0.12"]


def many(count):
    return detections(
        *([7 * (i % 16), 8 * (i // 16), 7 * (i % 16) + 6, 8 * (i // 16) + 6] for i in range(count))
    )


def test_one_class_that_fills_the_picture_has_neither_names_nor_boxes(monkeypatch):
    seen = []
    monkeypatch.setattr(captions, "write", lambda drawn, texts, *rest: seen.append(texts))
    boxes, labels, scores, masks = many(17)
    masks[0] = (np.ones((2, 2), np.float32), (2, 2))  # Smaller than its box, from (0, 0) to (6, 6).
    assert not changed(visualize.draw(GREY, boxes, labels, scores, masks, NAMES))[0, 0]
    drawn = visualize.draw(GREY, boxes, labels, scores, masks, NAMES, show_names=True)
    assert changed(drawn)[0, 0]
    assert changed(visualize.draw(GREY, boxes, labels, scores, None, NAMES))[0, 0]
    labels[3] = 2
    assert changed(visualize.draw(GREY, boxes, labels, scores, masks, NAMES))[0, 0]
    visualize.draw(GREY, *many(16), NAMES)
    named = [any(texts) for texts in seen]
    assert named == [False, True, False, True, True] and seen[0] == [""] * 17


def test_lines_are_thinner_around_small_objects(unnamed):
    large = np.full((2000, 2400, 3), 128, np.uint8)
    widths = []
    for side in (40, 120, 1000):
        drawn = visualize.draw(large, *detections([500, 500, 500 + side, 500 + side]), NAMES)
        across = np.abs(drawn[500 + side // 2, : 500 + side // 2].astype(float) - first_color())
        widths.append((across <= 2).all(-1).sum())
    assert widths == [1, 3, 5]


def test_crowds_are_hatched_below_the_rest(unnamed):
    boxes, labels, _, masks = detections([30, 40, 60, 70], [5, 20, 100, 95])
    drawn = visualize.draw(GREY, boxes, labels, None, masks, NAMES, crowd=[False, True]).astype(
        float
    )
    stripes = drawn[92, 8:97, 0]
    assert (stripes > 150).any() and (stripes < 100).any()
    assert np.ptp(drawn, axis=-1)[75:90, 10:95].max() == 0  # Crowds are grey.
    assert np.ptp(drawn, axis=-1)[45:65, 35:55].min() > 20


def test_small_crowds_lie_below_large_objects(unnamed):
    boxes, labels, _, masks = detections([20, 40, 70, 80], [30, 10, 50, 50])
    drawn = visualize.draw(GREY, boxes, labels, None, masks, NAMES, crowd=[False, True])
    np.testing.assert_array_equal(drawn[40, 49], first_color())  # A crossing of both frames.


def test_colours_by_class(unnamed):
    boxes, _, scores, masks = detections([10, 10, 40, 40], [50, 10, 80, 40], [10, 50, 40, 80])
    drawn = visualize.draw(GREY, boxes, [1, 2, 1], scores, masks, NAMES, color_by_class=True)
    np.testing.assert_array_equal(drawn[25, 25], drawn[65, 25])
    assert (drawn[25, 25] != drawn[25, 65]).any()


def test_contact_sheet_places_images_in_rows():
    images = [np.full((20 + i, 30, 3), i, np.uint8) for i in range(5)]
    sheet = visualize.contact_sheet(images, 2)
    assert sheet.shape == (3 * 24 + 4 * 4, 2 * 30 + 3 * 4, 3)
    for i, drawn in enumerate(images):
        row, column = divmod(i, 2)
        assert (sheet[4 + row * 28 + 12, 4 + column * 34 + 15] == i).all()
        assert (sheet == i).all(-1).sum() == drawn.shape[0] * 30
    assert (sheet[-20:-4, -34:-4] == 255).all()


def test_contact_sheet_needs_an_image():
    with pytest.raises(ValueError, match="at least one image"):
        visualize.contact_sheet([], 3)


def test_boxes_alone_are_drawn_as_with_empty_masks(unnamed):
    boxes, labels, scores, masks = detections([10, 40, 50, 80], [60, 20, 110, 90])
    empty = [(np.zeros((0, 0), np.float32), (0, 0)) for _ in masks]
    expected = visualize.draw(GREY, boxes, labels, scores, empty, NAMES)
    drawn = visualize.draw(GREY, boxes, labels, scores, names=NAMES)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(drawn, visualize.draw(GREY, boxes, labels, scores, None, NAMES))
    rows, columns = np.nonzero(changed(drawn[:, :55], GREY[:, :55]))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 79, 10, 49)
    assert not changed(drawn)[45:75, 15:45].any()


def test_boxes_alone_have_names():
    boxes, labels, scores, _ = detections([10, 40, 50, 80])
    named = visualize.draw(GREY, boxes, labels, scores, names=NAMES)
    assert changed(named)[25:40, 5:60].any()
