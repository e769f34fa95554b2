"""How far detections move between two detectors: pairs, distances and their table."""

import numpy as np

from maskrcnn_jax.cli import movement
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.detector import Detector


class Found(Detector):
    """A detector that always finds the same."""

    def __init__(self, boxes, labels, scores, categories):
        self.categories = categories
        masks = [self.mask(box) for box in boxes]
        values = {"boxes": np.float32(boxes).reshape(-1, 4), "labels": np.array(labels, int)}
        self.found = values | {"scores": np.float32(scores), "masks": masks}

    @staticmethod
    def mask(box):
        mask = np.zeros((40, 40), np.uint8, order="F")
        x0, y0, x1, y1 = map(round, box)
        mask[y0:y1, x0:x1] = 1
        return movement.rle_codec.encode(mask)

    def __call__(self, path, masks):
        assert masks == "rle"
        return [self.found]


def test_detections_of_one_category_pair_and_their_distances_are_measured(tmp_path):
    coco = Categories((1, 90), ("person", "toothbrush"))
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30], [0, 20, 10, 30]]
    here = Found(boxes, [1, 2, 1], [0.9, 0.8, 0.7], coco)
    moved = [[20, 20, 30, 35], [0, 0, 10, 10.5], [0, 20, 10, 30]]
    there = Found(moved, [90, 1, 90], [0.85, 0.5, 0.7], Categories.torchvision_coco())
    (found,) = movement.measure(here, there, [tmp_path / "a.jpg"])
    assert (found.image, found.here, found.there, found.pairs) == ("a.jpg", 3, 3, 2)
    np.testing.assert_allclose([*found.box, *found.score], [2.75, 5, 0.225, 0.4], atol=1e-6)
    np.testing.assert_allclose(found.mask_iou, (1 + 100 / 150) / 2)
    line = "| a.jpg | 3 | 3 | 2 | 2.8, 5 | 0.22, 0.4 | 0.8333 |"
    assert line in movement.to_markdown([found])


def test_no_detections_are_no_error(tmp_path):
    nothing = Found([], [], [], Categories.coco())
    (found,) = movement.measure(nothing, nothing, [tmp_path / "a.jpg"])
    assert found.pairs == 0 and found.box == (0, 0) and found.mask_iou is None


def test_masks_without_a_pixel_overlap_only_each_other():
    empty, full = ([0, 0, 0, 0], [0, 0, 9, 9])
    for boxes, expected in (((empty, empty), 1.0), ((empty, full), 0.0), ((full, full), 1.0)):
        assert movement._mask_iou(*map(Found.mask, boxes)) == expected
