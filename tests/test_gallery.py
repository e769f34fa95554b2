"""Sheets of images: their sizes, and that what they are for shows."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax import gallery
from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import coco, pipeline
from maskrcnn_jax.data.augmentation import Sample
from maskrcnn_jax.data.shapes import ShapesDataset


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
                    "segmentation": coco.rle(mask, height, width),
                }
            )
    return results


@pytest.fixture
def small(monkeypatch):
    """Pictures that are compressed in no time."""
    monkeypatch.setattr(gallery, "LONG_SIDE", 160)


def test_detections_are_drawn_over_their_images(tmp_path, small):
    dataset = ShapesDataset(3, 64, seed=0)
    gallery.write(tmp_path / "found.png", dataset, perfect_results(dataset, 0.9), dataset.categories)
    gallery.write(tmp_path / "weak.png", dataset, perfect_results(dataset, 0.1), dataset.categories)
    gallery.write(tmp_path / "none.png", dataset, [], dataset.categories)
    found, weak, none = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("found", "weak", "none"))
    assert found.shape == none.shape and found.shape[1] > 2 * gallery.LONG_SIDE
    assert (found != none).any(axis=-1).mean() > 0.02
    np.testing.assert_array_equal(weak, none)


def test_more_images_than_there_are_show_each_once(tmp_path, small):
    dataset = ShapesDataset(2, 64, seed=0)
    gallery.write(tmp_path / "sheet.png", dataset, [], dataset.categories, count=12)
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape[0] < 2 * gallery.LONG_SIDE


def test_large_images_are_reduced():
    dataset = ShapesDataset(1, 400, seed=0)
    picture = gallery.found(dataset[0], perfect_results(dataset, 0.9), dataset.categories)
    assert max(picture.shape) == gallery.LONG_SIDE


@pytest.mark.parametrize("length, count, expected", [(5, 2, [0, 4]), (3, 9, [0, 1, 2]), (5, 3, [0, 2, 4]), (4, 1, [0])])
def test_images_are_taken_evenly(length, count, expected):
    assert gallery.evenly(length, count) == expected


def test_both_kinds_of_masks_look_alike():
    """Masks that cover their box, and masks that cover the image."""
    dataset, pictures = ShapesDataset(4, 100, seed=0), []
    example = max(dataset, key=lambda example: len(example.boxes))
    for mask_store in ("crop", "full"):
        data_config = DataConfig(short_sides=(90,), max_long_side=100, mask_store=mask_store)
        sample = pipeline.train_sample(example, np.random.default_rng(0), data_config)
        picture = gallery.varied(sample, dataset.categories, "view", 200, mask_store=mask_store)
        pictures.append(picture.astype(int))
    assert len(sample.boxes) > 1
    assert (np.abs(pictures[0] - pictures[1]).max(-1) > 40).mean() < 0.05


@pytest.mark.parametrize("mask_store, tinted", [("crop", False), ("full", True)])
def test_masks_of_the_size_of_the_image_cover_what_the_config_says(mask_store, tinted):
    image, masks = np.full((112, 112, 3), 100, np.uint8), np.full((1, 112, 112), 255, np.uint8)
    sample = Sample(image, np.array([[60, 60, 90, 90]], np.float32), np.ones(1, np.int32), masks, 0)
    picture = gallery.varied(sample, ShapesDataset.categories, "view", 112, mask_store=mask_store)
    outside = picture[-112:][20:40, 20:40].astype(int)
    assert (np.abs(outside - 100).max() > 20) == tinted


def test_objects_without_a_slot_are_in_the_title():
    image, masks = np.full((40, 50, 3), 100, np.uint8), np.zeros((0, 28, 28), np.uint8)
    nothing = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), masks, 0)
    plain, titled = (
        gallery.varied(nothing._replace(num_surplus=n), ShapesDataset.categories, "view", 400, mask_store="crop")
        for n in (0, 3)
    )
    assert plain.shape == titled.shape and (plain[:-320] < 128).sum() < (titled[:-320] < 128).sum()
    np.testing.assert_array_equal(plain[-320:], titled[-320:])
