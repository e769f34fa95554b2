"""Drawings of images: their sizes, and that objects, masks and titles are visible."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import rle, transforms
from maskrcnn_jax.data.pack import pack
from maskrcnn_jax.data.shapes import ShapesDataset
from maskrcnn_jax.drawing import gallery
from maskrcnn_jax.structures import Batch, Bitmaps, Crops, Instances


def perfect_results(dataset, score):
    results = []
    for i in range(len(dataset)):
        example = dataset[i]
        height, width = example.image.shape[:2]
        for box, label, mask in zip(example.boxes, example.classes, example.masks, strict=True):
            results.append(
                {
                    "image_id": example.image_id,
                    "category_id": dataset.categories.category_id(int(label)),
                    "bbox": [*map(float, box[:2]), *map(float, box[2:] - box[:2])],
                    "score": score,
                    "segmentation": rle.encode(mask, height, width),
                }
            )
    return results


@pytest.fixture
def small(monkeypatch):
    """Small drawings, which are compressed quickly."""
    monkeypatch.setattr(gallery, "LONG_SIDE", 160)


def test_detections_are_drawn_over_their_images(tmp_path, small):
    dataset = ShapesDataset(3, 64, seed=0)
    gallery.write(
        tmp_path / "found.png", dataset, perfect_results(dataset, 0.9), dataset.categories
    )
    gallery.write(tmp_path / "weak.png", dataset, perfect_results(dataset, 0.1), dataset.categories)
    gallery.write(tmp_path / "none.png", dataset, [], dataset.categories)
    found, weak, none = (
        np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("found", "weak", "none")
    )
    assert found.shape == none.shape and found.shape[1] > 2 * gallery.LONG_SIDE
    assert (found != none).any(axis=-1).mean() > 0.02
    np.testing.assert_array_equal(weak, none)


def test_detections_without_masks_are_boxes(small):
    dataset = ShapesDataset(1, 64, seed=0)
    results = perfect_results(dataset, 0.9)
    plain = gallery.found(dataset[0], [], dataset.categories).astype(int)
    with_masks = gallery.found(dataset[0], results, dataset.categories)
    for result in results:
        del result["segmentation"]
    boxes = gallery.found(dataset[0], results, dataset.categories)
    assert 0 < (boxes != plain).any(-1).mean() < (with_masks != plain).any(-1).mean()


def test_more_images_than_there_are_show_each_once(tmp_path, small):
    dataset = ShapesDataset(2, 64, seed=0)
    gallery.write(tmp_path / "sheet.png", dataset, [], dataset.categories, count=12)
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape[0] < 2 * gallery.LONG_SIDE


def test_large_images_are_reduced():
    dataset = ShapesDataset(1, 400, seed=0)
    drawing = gallery.found(dataset[0], perfect_results(dataset, 0.9), dataset.categories)
    assert max(drawing.shape) == gallery.LONG_SIDE


@pytest.mark.parametrize(
    "length, count, expected", [(5, 2, [0, 4]), (3, 9, [0, 1, 2]), (5, 3, [0, 2, 4]), (4, 1, [0])]
)
def test_images_are_taken_evenly(length, count, expected):
    assert gallery.evenly(length, count) == expected


def test_both_kinds_of_masks_look_alike():
    """Masks that cover their box, and masks that cover the image."""
    dataset, drawings = ShapesDataset(4, 100, seed=0), []
    example = max(dataset, key=lambda example: len(example.boxes))
    for mask_store in ("crop", "full"):
        config = DataConfig(short_sides=(90,), max_long_side=100, mask_store=mask_store)
        sample = transforms.train_sample(example, (0,), config, transforms.standard(config))
        row = pack(sample, (96, 128), config)
        drawings.append(gallery.varied(row, dataset.categories, "view", 200).astype(int))
    assert len(sample.boxes) > 1
    assert (np.abs(drawings[0] - drawings[1]).max(-1) > 40).mean() < 0.05


def packed(masks, size=(112, 112), num_surplus=0):
    """Makes a grey image of the given size in a larger bucket, with one object or none."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[: size[0], : size[1]] = 100
    valid = np.arange(2) < len(masks.values)
    boxes, classes = np.zeros((2, 4), np.float32), np.zeros(2, np.int32)
    boxes[valid], classes[valid] = [60, 60, 90, 90], 1
    instances = Instances(boxes, classes, masks, valid)
    return Batch(
        image, np.array(size), np.array([128, 128]), np.int32(1), instances, np.int32(num_surplus)
    )


@pytest.mark.parametrize("kind, tinted", [(Crops, False), (Bitmaps, True)])
def test_masks_of_the_size_of_the_image_cover_what_their_type_says(kind, tinted):
    row = packed(kind(np.full((1, 112, 112), 255, np.uint8)))
    drawing = gallery.varied(row, ShapesDataset.categories, "view", 112)
    outside = drawing[-112:][20:40, 20:40].astype(int)
    assert (np.abs(outside - 100).max() > 20) == tinted


def test_objects_without_a_slot_are_in_the_title():
    nothing = Crops(np.zeros((0, 28, 28), np.uint8))
    plain, titled = (
        gallery.varied(packed(nothing, (40, 50), number), ShapesDataset.categories, "view", 400)
        for number in (0, 3)
    )
    assert plain.shape == titled.shape and (plain[:-320] < 128).sum() < (titled[:-320] < 128).sum()
    np.testing.assert_array_equal(plain[-320:], titled[-320:])


def test_objects_that_were_removed_are_in_the_title():
    row = packed(Crops(np.zeros((0, 28, 28), np.uint8)), (40, 50))
    plain, titled = (
        gallery.varied(row._replace(num_removed=number), ShapesDataset.categories, "view", 400)
        for number in (np.int32(0), np.int32(3))
    )
    assert (plain[:-320] < 128).sum() < (titled[:-320] < 128).sum()


def test_an_object_without_a_mask_shows_its_box():
    example = ShapesDataset(1, 100, seed=0)[0]
    without = example._replace(masks=[None] * len(example.masks))
    nothing = example._replace(boxes=example.boxes[:0], classes=example.classes[:0], masks=[])
    masked, boxed, bare = (
        gallery.annotated(given, [], ShapesDataset.categories, 200).astype(int)
        for given in (example, without, nothing)
    )
    changes = [(np.abs(drawing - bare).max(-1) > 20).mean() for drawing in (masked, boxed)]
    assert 0.005 < changes[1] < changes[0]
