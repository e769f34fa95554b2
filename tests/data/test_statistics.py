"""Numbers of data sets, computed by hand and by NumPy on whole arrays."""

from types import SimpleNamespace

import numpy as np
import pytest

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import statistics
from maskrcnn_jax.data.categories import Categories


class Images:
    """Stands in for a data set; None is an image that cannot be read."""

    categories, labels = Categories.numbered(1), ()

    def __init__(self, *images):
        self.images, self.image_ids = images, 10 + np.arange(len(images))
        self.sizes = np.ones((len(images), 2), int)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if self.images[index] is None:
            raise OSError(f"image id {10 + index}: broken")
        return SimpleNamespace(image=self.images[index])


@pytest.mark.parametrize("num_channels", [1, 3, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_channels_are_those_of_all_pixels(num_channels, dtype):
    random = np.random.default_rng(num_channels)
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    sizes = (7, 5), (1, 9), (30, 20)
    images = [(random.random((*size, num_channels)) * full).astype(dtype) for size in sizes]
    done = []
    found, bad = statistics.channels(Images(*images), range(3), done.append)
    pixels = np.concatenate([x.reshape(-1, num_channels) for x in images]).astype(float) / full
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=1e-6)
    assert found.num_images == 3 and bad == {} and done == [1, 1, 1]


def test_equal_pixels_have_no_deviation():
    found, _ = statistics.channels(Images(np.full((9, 9, 3), 77, np.uint8)), [0])
    np.testing.assert_allclose(found.std, 0, atol=1e-7)


def test_bad_images_are_named():
    white = np.full((2, 2, 3), 255, np.uint8)
    found, bad = statistics.channels(Images(None, white, None), [1, 2])
    assert found.mean.tolist() == [1, 1, 1] and found.num_images == 1
    assert bad == {12: "image id 12: broken"}
    with pytest.raises(ValueError, match="no image can be read: image id 10: broken"):
        statistics.channels(Images(None), [0])
    with pytest.raises(ValueError, match="image id 11 has 1 channels, and others 3"):
        statistics.channels(Images(white, white[:, :, :1]), [0, 1])


def content(*boxes, **fields):
    """An image of 100 x 200 pixels with these boxes x, y, width, height, and one without any."""
    images = [{"id": 4, "height": 10, "width": 20}, {"id": 9, "height": 100, "width": 200}]
    found = [
        {"id": i, "image_id": 9, "category_id": 1, "bbox": list(box)} | fields
        for i, box in enumerate(boxes, start=1)
    ]
    return {"images": images, "annotations": found}


def test_objects_are_clamped_and_have_an_extent():
    boxes = [10, 20, 30, 40], [-5, 90, 15, 1e308], [300, 0, 10, 10], [0, 0, np.nan, 5], [5, 5, 0, 9]
    found = statistics.objects(content(*boxes))
    assert found.ids.tolist() == [1, 2] and found.image.tolist() == [1, 1]
    assert found.boxes.tolist() == [[10, 20, 40, 60], [0, 90, 10, 100]]
    assert found.sizes.tolist() == [[10, 20], [100, 200]]
    assert len(statistics.objects(content([0, 0, 9, 9], iscrowd=1)).ids) == 0
    assert len(statistics.objects(content()).ids) == 0


def test_sides_are_those_of_resized_images():
    config = DataConfig(test_short_side=50, test_max_long_side=1000)
    found = statistics.objects(content([10, 20, 30, 40]))
    assert statistics.resized_sides(found, config).tolist() == [[20, 15]]
    config.test_max_long_side = 50
    assert statistics.resized_sides(found, config).tolist() == [[10, 7.5]]


def test_the_best_anchor_by_hand():
    sides = np.array([[10.0, 10], [20, 5], [100, 100]])
    anchors = np.array([[10.0, 10], [20, 20]])
    fit = statistics.anchor_fit(sides, anchors)
    np.testing.assert_allclose(fit.overlap, [1, 50 / 150, 400 / 10000])
    assert fit.anchor.tolist() == [0, 0, 1]
    assert statistics.anchor_fit(np.zeros((0, 2)), anchors).overlap.shape == (0,)


def odd(*boxes, **fields):
    found = statistics.objects(content(*boxes, **fields))
    sides = statistics.resized_sides(found, DataConfig(test_short_side=100, test_max_long_side=999))
    return [ids for ids in statistics.suspicious(found, sides).values() if ids]


def test_usual_objects_are_not_suspicious():
    assert odd([10, 20, 30, 40], [12, 20, 30, 40], [0, 0, 200, 94], [0, 0, 40, 2]) == []


@pytest.mark.parametrize(
    "box",
    [[0, 0, 1.9, 5], [0, 0, 200, 96], [0, 0, 43, 2], [10, 20, 30, 39]],
    ids=["small", "whole", "long", "twice"],
)
def test_odd_objects_are_named(box):
    assert odd([10, 20, 30, 40], box) == [[2]]


def test_copies_are_of_one_category_and_image():
    both = content([10, 20, 30, 40], [10, 20, 30, 40])
    for change in ({"category_id": 2}, {"image_id": 4, "bbox": [1, 1, 5, 5]}):
        both["annotations"][1] |= change
        found = statistics.objects(both)
        kinds = statistics.suspicious(found, np.full((2, 2), 9.0))
        assert not any(kinds.values())
        both["annotations"][1] |= {"category_id": 1}
