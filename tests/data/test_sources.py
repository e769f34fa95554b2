"""Configs open the right data sets, and these are checked against the model."""

import json

import pytest
from PIL import Image

from maskrcnn_jax.config import DataConfig, ModelConfig
from maskrcnn_jax.data import sources
from maskrcnn_jax.data.categories import Categories


def shapes_config():
    return DataConfig(source="shapes", shapes_num_train=3, shapes_num_val=2, shapes_image_size=48)


def test_synthetic_training_and_validation_images_differ():
    train = sources.open_train(shapes_config())
    val, annotations = sources.open_val(shapes_config())
    assert (len(train), len(val), len(annotations["images"])) == (3, 2, 2)
    assert train.categories == val.categories
    assert any(
        train[i].image.shape != val[i].image.shape or (train[i].image != val[i].image).any()
        for i in range(2)
    )


def test_coco_files_are_opened(shared):
    root = shared / "data" / "coco_subset"
    config = DataConfig(
        train_images=str(root / "train"), train_annotations=str(root / "instances_train.json")
    )
    config.val_images, config.val_annotations = str(root / "val"), str(root / "instances_val.json")
    train, (val, annotations) = sources.open_train(config), sources.open_val(config)
    assert len(train) < 80  # Training skips images without objects.
    assert len(val) == len(annotations["images"]) == 57  # Evaluation keeps them.
    sources.check_categories(ModelConfig(num_classes=81), train.categories, val.categories)


def test_boxes_without_masks_are_opened_on_request(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "1.png")
    boxed = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 5, 5]}
    image = {"id": 1, "file_name": "1.png", "height": 10, "width": 20}
    category = {"id": 7, "name": "cat"}
    (tmp_path / "a.json").write_text(
        json.dumps({"images": [image], "annotations": [boxed], "categories": [category]})
    )
    config = DataConfig(train_images=str(tmp_path), train_annotations=str(tmp_path / "a.json"))
    config.val_images, config.val_annotations = config.train_images, config.train_annotations
    assert len(sources.open_train(config)) == 0
    assert sources.open_train(config, masks=False)[0].masks == [None]
    for masks in (True, False):
        dataset, annotations = sources.open_val(config, masks=masks)
        assert len(dataset) == 1
        assert len(dataset[0].boxes) == len(annotations["annotations"]) == (0 if masks else 1)


@pytest.mark.parametrize("open_split", [sources.open_train, sources.open_val])
def test_an_unknown_source_is_named(open_split):
    with pytest.raises(ValueError, match="'voc'"):
        open_split(DataConfig(source="voc"))


def test_categories_must_fit_the_model_and_each_other():
    two, other = Categories((1, 2), ("cat", "dog")), Categories((1, 2), ("cat", "cow"))
    sources.check_categories(ModelConfig(num_classes=3), two, two)
    with pytest.raises(ValueError, match="num_classes must be 3"):
        sources.check_categories(ModelConfig(num_classes=2), two, two)
    with pytest.raises(ValueError, match="cow"):
        sources.check_categories(ModelConfig(num_classes=3), two, other)
