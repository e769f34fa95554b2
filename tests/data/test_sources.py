"""Configs open the right data sets, and these are checked against the model."""

import json

import pytest
from PIL import Image

from maskrcnn_jax.config import DataConfig
from maskrcnn_jax.data import sources
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.model_config import ModelConfig


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
    sources.check_categories(ModelConfig(num_classes=81), train.categories)


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


def test_rules_for_images_hold_in_training_only(tmp_path):
    """The one object is half a pixel wide, the image 10 pixels high."""
    Image.new("RGB", (20, 10)).save(tmp_path / "1.png")
    outline = [[1, 1, 1.5, 1, 1.5, 6, 1, 6]]
    thin = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 0.5, 5]}
    image = {"id": 1, "file_name": "1.png", "height": 10, "width": 20}
    content = {"images": [image], "annotations": [thin | {"segmentation": outline}]}
    content["categories"] = [{"id": 7, "name": "cat"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    config = DataConfig(train_images=str(tmp_path), train_annotations=str(tmp_path / "a.json"))
    config.val_images, config.val_annotations = config.train_images, config.train_annotations
    for keep_rule, min_side, count in (("torchvision", 0, 0), ("any", 10, 1), ("any", 11, 0)):
        config.keep_rule, config.min_side = keep_rule, min_side
        assert len(sources.open_train(config)) == count
        assert len(sources.open_val(config)[0]) == 1


@pytest.mark.parametrize("open_split", [sources.open_train, sources.open_val])
def test_an_unknown_source_is_named(open_split):
    with pytest.raises(ValueError, match="'voc'"):
        open_split(DataConfig(source="voc"))


def test_categories_must_fit_the_model():
    sources.check_categories(ModelConfig(num_classes=3), CATS)
    with pytest.raises(ValueError, match="num_classes must be 3"):
        sources.check_categories(ModelConfig(num_classes=2), CATS)


# Labels of a model and a data set.

CATS = Categories((1, 2), ("cat", "dog"))


@pytest.mark.parametrize(
    "model, data, expected",
    [
        (CATS, Categories((2,), ("dog",)), CATS),
        (CATS, Categories((16, 17), ("dog", "cat")), Categories((17, 16), ("cat", "dog"))),
        (CATS, Categories((1, 2), ("Dog", " CAT ")), Categories((2, 1), (" CAT ", "Dog"))),
        (CATS, Categories((1,), ("dog",)), Categories((2, 1), ("cat", "dog"))),
        (CATS, Categories((2, 3), ("cat", "dog")), Categories((2, 3), ("cat", "dog"))),
        (
            Categories.numbered(2),
            Categories((17, 16), ("a", "b")),
            Categories((16, 17), ("b", "a")),
        ),
        (Categories.numbered(3), Categories((1, 3), ("a", "b")), Categories.numbered(3)),
    ],
)
def test_labels_are_brought_together(model, data, expected):
    """Label i + 1 of the model is category i of the result, with the ids of the data set."""
    assert sources.matched(model, data) == expected


@pytest.mark.parametrize(
    "model, data, message",
    [
        (CATS, Categories((1,), ("cell",)), "category 1 'cell' of the data set, which is 'cat'"),
        (CATS, Categories((5,), ("cell",)), "category 5 'cell' of the data set; it knows cat, dog"),
        (Categories.numbered(3), Categories((16,), ("a",)), "does not know category 16 'a'"),
        (Categories((1, 2), ("a", "A")), Categories((3,), ("a",)), "does not know category 3 'a'"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_a_way_on(model, data, message):
    with pytest.raises(ValueError, match=f"the model does not know.*{message.split('know ')[-1]}"):
        sources.matched(model, data)
    with pytest.raises(ValueError, match="--config.fresh_heads=True"):
        sources.matched(model, data)


def val_set(folder, categories):
    """A validation set with an object of the first category."""
    Image.new("RGB", (20, 10)).save(folder / "1.png")
    image = {"id": 1, "file_name": "1.png", "height": 10, "width": 20}
    box = {"id": 1, "image_id": 1, "bbox": [2, 3, 9, 5], "category_id": categories[0][0]}
    named = [{"id": i, "name": name} for i, name in categories]
    content = {"images": [image], "annotations": [box], "categories": named}
    (folder / "a.json").write_text(json.dumps(content))
    config = DataConfig(val_images=str(folder), val_annotations=str(folder / "a.json"))
    return sources.open_val(config, CATS, masks=False, known_by="the training set")


@pytest.mark.parametrize(
    "categories",
    [[(2, "dog")], [(1, "dog"), (2, "cat")], [(7, "Dog")], [(0, "dog"), (1, "cat")]],
    ids=str,
)
def test_a_validation_set_may_lack_categories_and_number_them_otherwise(tmp_path, categories):
    dataset, annotations = val_set(tmp_path, categories)
    assert dataset[0].classes.tolist() == [2]  # The label that a dog has in training.
    assert dataset.categories.category_id(2) == annotations["annotations"][0]["category_id"]


def test_a_validation_set_has_no_category_that_training_lacks(tmp_path):
    message = "the training set does not know category 2 'cow'.*it knows cat, dog: rename cat"
    with pytest.raises(ValueError, match=message):
        val_set(tmp_path, [(1, "cat"), (2, "cow")])


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (20, 10)).save(tmp_path / "1.png")
    image = {"id": 1, "file_name": "1.png", "height": 10, "width": 20}
    content = {"images": [image], "annotations": [], "categories": [{"id": 7, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    config = DataConfig(val_images="~", val_annotations="~/a.json")
    dataset, _ = sources.open_val(config)
    assert dataset[0].image.shape == (10, 20, 3)
