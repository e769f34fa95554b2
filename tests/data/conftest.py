"""A small data set in COCO's format."""

import pytest


@pytest.fixture
def small(tmp_path):
    """A folder of five images and its annotation file."""
    # Imported late: tensorflow_datasets takes a second.
    from tests.data.test_coco_instances import write_annotations, write_images

    write_annotations(tmp_path / "instances.json", write_images(tmp_path / "images"))
    return tmp_path / "images", tmp_path / "instances.json"
