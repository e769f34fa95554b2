"""Detections of windows merge into those of the whole image.

A perfect detector stands in for the model: the pixels of an image are the numbers of its objects,
and the detector finds the visible part of each object in its window.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from maskrcnn_jax.pasting import ImageDetections
from maskrcnn_jax.tiling import seams
from maskrcnn_jax.tiling.detector import TiledDetector

TILE, OVERLAP = 64, 0.25  # Neighbours share 16 pixels.


class Perfect:
    """Finds the objects of an image of numbers; the label of object n is ``n % 3 + 1``."""

    batch_size, num_channels = 3, 3
    model = SimpleNamespace(config=SimpleNamespace(mask_head=True))
    data = SimpleNamespace(image_dtype="uint8")

    def place(self, size):
        return size, size

    def detect(self, image, score_threshold=None, top_k=None):
        return self.detect_batch([image], score_threshold)[0]

    def detect_batch(self, batch, score_threshold=None):
        return [self._found(image[:, :, 0]) for image in batch]

    def _found(self, numbers):
        boxes, labels, scores, patches = [], [], [], []
        for number in sorted(set(np.unique(numbers).tolist()) - {0}):
            y, x = np.nonzero(numbers == number)
            top, left, bottom, right = y.min(), x.min(), y.max() + 1, x.max() + 1
            boxes.append((left, top, right, bottom))
            labels.append(number % 3 + 1)
            scores.append(self.score(number, len(y)))
            mask = (numbers[top:bottom, left:right] == number).astype(np.float32)
            patches.append((mask, (int(top), int(left))))
        order = np.argsort(-np.array(scores), kind="stable")
        return ImageDetections(
            np.array(boxes, np.float32).reshape(-1, 4)[order],
            np.array(labels, np.int64)[order],
            np.array(scores, np.float32)[order],
            [patches[i] for i in order],
        )

    def score(self, number, area):
        return 1 - number / 256


def scene(*objects, size=(200, 230)):
    """An image with the given rectangles (y0, x0, y1, x1), numbered from 1."""
    image = np.zeros((*size, 3), np.uint8)
    for number, (y0, x0, y1, x1) in enumerate(objects, 1):
        image[y0:y1, x0:x1] = number
    return image


def full_masks(found, size):
    masks = np.zeros((len(found.boxes), *size), bool)
    for mask, (patch, (y, x)) in zip(masks, found.patches, strict=True):
        mask[y : y + patch.shape[0], x : x + patch.shape[1]] = patch > 0.5
    return masks


def assert_equal(found, expected, size):
    order = [np.lexsort((x.boxes[:, 0], x.boxes[:, 1], -x.scores)) for x in (found, expected)]
    for name in ("boxes", "labels", "scores"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(ours[order[0]], theirs[order[1]])
    np.testing.assert_array_equal(
        full_masks(found, size)[order[0]], full_masks(expected, size)[order[1]]
    )


def check(image):
    """The tiled detections are those that the detector finds in the whole image."""
    expected = Perfect().detect(image)
    found = TiledDetector(Perfect(), TILE, OVERLAP).detect(image)
    assert_equal(found, expected, image.shape[:2])
    return found


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 20, 20),  # Inside one window.
        (50, 50, 60, 60),  # In the overlap of four windows.
        (10, 30, 20, 80),  # Cut by one seam: larger than the overlap.
        (30, 30, 90, 80),  # By two, at a corner.
        (5, 20, 15, 220),  # By four, one after the other.
        (20, 20, 180, 200),  # Larger than a window: one of them sees nothing else.
        (0, 0, 200, 230),  # The whole image.
        (46, 46, 64, 64),  # From seam to seam.
        (47, 0, 49, 230),  # Two pixels high, along a seam.
    ],
)
def test_an_object_that_seams_cut_comes_back_whole(box):
    assert len(check(scene(box)).boxes) == 1


def test_dense_neighbours_stay_apart():
    """Objects of one class touch each other across the seams, where all windows see them."""
    cells = [(y, x, y + 9, x + 9) for y in range(0, 180, 9) for x in range(0, 90, 9)]
    assert len(check(scene(*cells)).boxes) == len(cells) == 200


def test_long_neighbours_of_one_class_stay_apart():
    image = np.zeros((200, 230, 3), np.uint8)
    for row in range(40):
        image[5 * row : 5 * row + 5] = 3 * row + 3  # All of class 1, each across all seams.
    assert len(check(image).boxes) == 40


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes(seed):
    random = np.random.default_rng(seed)
    image = np.zeros((*random.integers(30, 260, 2), 3), np.uint8)
    for number in range(1, 40):
        y, x = random.integers(0, image.shape[:2])
        # Narrower than a window, so that no window sees two parts of an object and not a third.
        height, width = random.integers(1, 60, 2)
        free = image[y : y + height, x : x + width]
        if not free.any():
            free[:] = number
    check(image)


@pytest.mark.parametrize("size", [(64, 64), (10, 64), (64, 1), (30, 30)])
def test_an_image_of_one_window_has_the_detections_of_the_detector(size):
    image = scene((0, 0, 5, 5), (6, 0, 20, 9), size=size)
    found = TiledDetector(Perfect(), TILE, OVERLAP).detect(image)
    expected = Perfect().detect(image)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_equal(ours, theirs)


def test_without_an_object_there_is_none():
    found = TiledDetector(Perfect(), TILE, OVERLAP).detect(scene())
    assert found.boxes.shape == (0, 4) and found.patches == []


def test_the_score_of_an_object_in_parts_is_the_highest():
    class ByArea(Perfect):
        def score(self, number, area):
            return area / 10_000

    image = scene((10, 20, 20, 100))
    (score,) = TiledDetector(ByArea(), TILE, OVERLAP).detect(image).scores
    # The second of the windows from 0, 48, 96 sees the pixels from 48 to 100.
    assert score == np.float32(52 * 10 / 10_000)


def found_in(window, box, grid, size, score=0.5, label=1):
    """A detection without a mask, in pixels of the image."""
    place = grid.window(window)
    local = np.array([box], np.float32) - np.array([place.left, place.top] * 2, np.float32)
    one = ImageDetections(local, np.array([label]), np.array([score], np.float32), None)
    (placed,) = seams.place(one, window, grid, size)
    return placed


@pytest.fixture
def pair():
    """A grid of two windows, columns 0 to 64 and 48 to 112."""
    size = (64, 112)
    grid = TiledDetector(Perfect(), TILE, OVERLAP).grid(np.zeros(size))
    assert grid.lefts == (0, 48)
    return grid, size


def test_of_two_whole_detections_the_better_stays(pair):
    grid, size = pair
    first = found_in(0, (50, 10, 60, 20), grid, size, 0.6)
    second = found_in(1, (51, 10, 60, 20), grid, size, 0.7)
    found = seams.merge([first, second], grid, size, masks=False)
    np.testing.assert_allclose(found.boxes, [[51, 10, 60, 20]])
    assert found.scores.tolist() == [np.float32(0.7)] and found.patches is None


def test_a_cut_detection_goes_where_another_window_sees_its_place_whole(pair):
    grid, size = pair
    sliver = found_in(0, (55, 10, 64, 20), grid, size, 0.9)
    assert sliver.is_cut
    assert len(seams.merge([sliver], grid, size, masks=False).boxes) == 0
    # This one reaches beyond the other window, so no window saw it whole.
    part = found_in(0, (30, 10, 64, 20), grid, size, 0.9)
    assert len(seams.merge([part], grid, size, masks=False).boxes) == 1


@pytest.mark.parametrize(("y", "count"), [(20, 1), (27, 2)])
def test_parts_join_by_the_iou_of_what_both_windows_see(pair, y, count):
    grid, size = pair
    left = found_in(0, (20, 10, 64, 30), grid, size)
    right = found_in(1, (48, y - 10, 100, y + 10), grid, size)
    found = seams.merge([left, right], grid, size, masks=False)
    assert len(found.boxes) == count  # IoU 1, and 13 / 27.
    if count == 1:
        np.testing.assert_allclose(found.boxes, [[20, 10, 100, 30]])


def test_other_classes_do_not_join(pair):
    grid, size = pair
    left = found_in(0, (20, 10, 64, 30), grid, size, label=1)
    right = found_in(1, (48, 10, 100, 30), grid, size, label=2)
    assert len(seams.merge([left, right], grid, size, masks=False).boxes) == 2


def test_a_whole_detection_stays_even_beside_a_cut_one_of_higher_score(pair):
    grid, size = pair
    whole = found_in(0, (40, 10, 61, 20), grid, size, 0.5)
    cut = found_in(1, (48, 10, 63, 20), grid, size, 0.9)
    assert not whole.is_cut and cut.is_cut
    found = seams.merge([whole, cut], grid, size, masks=False)
    np.testing.assert_allclose(found.boxes, [[40, 10, 61, 20]])
    assert found.scores.tolist() == [0.5]


@pytest.mark.parametrize("tops", [(29, 30), (30, 29)])
def test_two_detections_of_one_window_never_become_one(pair, tops):
    grid, size = pair
    left = found_in(0, (20, 10, 64, 30), grid, size)
    right = [found_in(1, (48, 10, 100, top), grid, size) for top in tops]
    found = seams.merge([left, *right], grid, size, masks=False)
    # The part with the higher IoU joins, the other one stays alone.
    assert sorted(map(tuple, found.boxes[:, [0, 3]].tolist())) == [(20, 30), (48, 29)]
