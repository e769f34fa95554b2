"""The common interface of all data sets: labels are known before an image is read."""

import numpy as np
import pytest

from maskrcnn_jax import images
from maskrcnn_jax.data import coco_instances, shapes
from maskrcnn_jax.data.coco import CocoDataset
from maskrcnn_jax.data.dataset import AnnotatedDataset, Dataset
from maskrcnn_jax.data.prepared import PreparedDataset
from maskrcnn_jax.data.shapes import ShapesDataset


@pytest.fixture(scope="module", params=["shapes", "coco", "prepared"])
def dataset(request, tmp_path_factory):
    if request.param == "shapes":
        return ShapesDataset(6, 64, seed=0)
    root = request.getfixturevalue("shared") / "data" / "coco_subset"
    source = root / "val", root / "instances_val.json"
    if request.param == "coco":
        return CocoDataset(*source, keep_empty=False)
    folder = tmp_path_factory.mktemp("prepared")
    coco_instances.prepare(CocoDataset(*source, keep_empty=True), "val", folder, lambda count: None)
    return PreparedDataset(folder, "val", keep_empty=False)


def test_every_data_set_has_the_members(dataset):
    assert isinstance(dataset, Dataset) and isinstance(dataset, AnnotatedDataset)
    for name in ("sizes", "image_ids", "labels"):
        assert len(getattr(dataset, name)) == len(dataset)
    assert {"images", "annotations", "categories"} <= dataset.annotations().keys()


def test_labels_are_those_of_the_examples(dataset):
    for index in (0, 3, len(dataset) - 1):
        example = dataset[index]
        assert dataset.labels[index].dtype == example.classes.dtype
        np.testing.assert_array_equal(dataset.labels[index], example.classes)
        assert example.image_id == dataset.image_ids[index]


def test_labels_are_known_without_an_image(dataset, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("an image was read")

    for module, name in ((images, "read_image"), (images, "decode_image"), (shapes, "_paint")):
        monkeypatch.setattr(module, name, refuse)
    vars(dataset).pop("labels", None)  # Some data sets cache the labels.
    assert sum(map(len, dataset.labels)) > len(dataset)
    with pytest.raises(AssertionError, match="an image was read"):
        dataset[0]
