"""The description of a model in a weight file: what it carries, and what it leaves out."""

import json

import jaxtyping
import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.config import Config
from maskrcnn_jax.data.categories import Categories
from maskrcnn_jax.weights import model_metadata

CATEGORIES = Categories((7, 3), ("cat", "dog"))


def test_model_detection_and_the_sizes_of_images_come_back():
    config = Config(num_steps=7)
    config.model.num_classes, config.detection.num_detections = 3, 50
    config.data.test_short_side, config.data.test_buckets = 320, ((320, 448),)
    config.data.train_images = "/home/me/photos"
    metadata = model_metadata.encode(config, CATEGORIES)
    found, categories = model_metadata.decode(metadata)
    assert found.model == config.model and found.detection == config.detection
    for name in model_metadata.IMAGES:
        assert getattr(found.data, name) == getattr(config.data, name), name
    assert categories == CATEGORIES
    # Nothing about the run or the machine travels with the weights.
    assert found.num_steps == Config().num_steps and "photos" not in str(metadata)


def test_what_is_not_there_is_none():
    assert model_metadata.decode({}) == (None, None)
    assert model_metadata.decode({"other": "{"}) == (None, None)
    found, categories = model_metadata.decode(model_metadata.encode(Config(), None))
    assert found.model == Config().model and categories is None


def test_a_vit_trains_in_the_bucket_that_it_takes():
    config = presets.detectron2_vitdet_b(4)
    found, _ = model_metadata.decode(model_metadata.encode(config, None))
    assert found.model == config.model
    assert found.data.buckets == found.data.test_buckets == ((1024, 1024),)


@pytest.mark.parametrize(
    "key, value, message",
    [
        (model_metadata.CONFIG, "{", "Expecting property name"),
        (model_metadata.CONFIG, '{"model": {"depht": 18}}', "depht"),
        (model_metadata.CONFIG, '{"model": {"num_classes": 1}}', "model.num_classes must be"),
        (model_metadata.CONFIG, "[" * 100_000, "recursion"),
        (model_metadata.CATEGORIES, '[{"id": 1}]', "KeyError.*name"),
        (model_metadata.CATEGORIES, '[{"id": "1", "name": "cat"}]', "expected numbers as ids"),
        (model_metadata.CATEGORIES, "3", "TypeError"),
    ],
)
def test_a_broken_description_is_named_by_its_key(key, value, message, monkeypatch):
    # Annotations are only checked in tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    good = model_metadata.encode(Config(), CATEGORIES)
    with pytest.raises(ValueError, match=f"its metadata '{key}' is broken: .*{message}"):
        model_metadata.decode(good | {key: value})


def test_the_description_is_plain_json():
    metadata = model_metadata.encode(Config(), CATEGORIES)
    assert json.loads(metadata[model_metadata.CATEGORIES]) == CATEGORIES.to_json()
    assert json.loads(metadata[model_metadata.CONFIG]).keys() == {"model", "detection", "data"}
