"""The sheet of validation images: size, and that detections show."""

import numpy as np
from PIL import Image

from maskrcnn_jax import gallery
from maskrcnn_jax.data import coco
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


def test_detections_are_drawn_over_their_images(tmp_path):
    dataset = ShapesDataset(3, 64, seed=0)
    gallery.write(tmp_path / "found.png", dataset, perfect_results(dataset, 0.9), dataset.categories)
    gallery.write(tmp_path / "weak.png", dataset, perfect_results(dataset, 0.1), dataset.categories)
    gallery.write(tmp_path / "none.png", dataset, [], dataset.categories)
    found, weak, none = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("found", "weak", "none"))
    assert found.shape == none.shape and min(found.shape[:2]) > gallery.SMALLEST_SIDE
    assert (found != none).any(axis=-1).mean() > 0.02
    np.testing.assert_array_equal(weak, none)


def test_more_images_than_there_are_show_each_once(tmp_path):
    dataset = ShapesDataset(2, 64, seed=0)
    gallery.write(tmp_path / "sheet.png", dataset, [], dataset.categories, count=12)
    assert np.asarray(Image.open(tmp_path / "sheet.png")).shape[0] < 2 * gallery.SMALLEST_SIDE
