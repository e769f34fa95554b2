"""The files that `maskrcnn-jax predict --formats` writes, read back."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli import formats
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.coco_metrics import coco_results
from maskrcnn_jax.data import rle
from maskrcnn_jax.pasting import ImageDetections
from maskrcnn_jax.weights import loading
from tests.cli.test_predict import save
from tests.data.test_tracing import filled

SIZE = (12, 16)


def two_objects(masks=True):
    """A ring, and a smaller object over its edge and beyond the image's."""
    ring = np.ones((6, 6), np.float32)
    ring[2:4, 2:4] = 0.25
    boxes = np.array([[1, 2, 7, 8], [5, 5, 9.5, 9.25]], np.float32)
    patches = [(ring, (2, 1)), (np.full((4, 4), 0.75, np.float32), (5, 5))]
    labels, scores = np.array([2, 1]), np.array([0.875, 0.5], np.float32)
    return ImageDetections(boxes, labels, scores, patches if masks else None)


def results_of(found, image_id=7):
    made = coco_results(found, SIZE, image_id, (10, 20))
    names = ["", "cell", '=nucleus, "big"']
    pairs = zip(made, found.labels, strict=True)
    return [x | {"file_name": "a.png", "category_name": names[label]} for x, label in pairs]


def test_geojson_has_the_pixels_of_the_masks():
    found = two_objects()
    results = results_of(found)
    content = json.loads(json.dumps(formats.features(found, results, SIZE)))
    assert content["type"] == "FeatureCollection"
    assert content["image"] == {"height": 12, "width": 16, "units": "pixels"}
    for feature, result in zip(content["features"], results, strict=True):
        assert feature["type"] == "Feature" and feature["geometry"]["type"] == "MultiPolygon"
        mask = rle.decode(result["segmentation"], *SIZE)
        np.testing.assert_array_equal(filled(feature["geometry"]["coordinates"], SIZE), mask)
        assert feature["properties"]["area"] == mask.sum()
        assert feature["properties"]["score"] == result["score"]
    first, second = content["features"]
    assert first["bbox"] == [1, 2, 7, 8] and second["id"] == 2
    assert first["properties"]["category_id"] == 20
    assert len(first["geometry"]["coordinates"][0]) == 2  # An outer ring and a hole.


def test_geojson_without_masks_has_boxes():
    found = two_objects(masks=False)
    (_, second) = formats.features(found, results_of(found), SIZE)["features"]
    (((*ring,),),) = second["geometry"]["coordinates"]
    assert ring == [[5, 5], [9.5, 5], [9.5, 9.25], [5, 9.25], [5, 5]]
    assert second["properties"]["area"] == 4.5 * 4.25


def test_labels_are_the_numbers_of_the_detections():
    image = formats.labels(two_objects(), SIZE)
    assert image.dtype == np.uint16 and image.shape == SIZE
    assert (image[2, 1:7] == 1).all() and (image[4:6, 3:5] == 0).all()  # The hole is empty.
    assert (image[5:9, 5:9] == 2).all() and np.unique(image).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="has no mask head"):
        formats.labels(two_objects(masks=False), SIZE)


def test_measurements(tmp_path):
    for masks, areas in ((True, ["32", "16"]), (False, ["36.0", "19.125"])):
        found = two_objects(masks)
        results = [*results_of(found), *results_of(found, image_id=8)]
        formats.write_measurements(tmp_path / "m.csv", results)
        with (tmp_path / "m.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["number"] for row in rows] == ["1", "2", "1", "2"]
        assert [row["area"] for row in rows] == areas * 2
        assert rows[1]["x1"] == "9.5" and rows[3]["image_id"] == "8" and rows[0]["score"] == "0.875"
        assert rows[0]["category_name"] == '=nucleus, "big"' and rows[0]["category_id"] == "20"


@pytest.fixture
def predict(run_directory, tmp_path):
    command = ["predict", "--weights", str(run_directory), "--output", str(tmp_path / "out")]
    return lambda *arguments: main([*command, *map(str, arguments)])


def test_predict_writes_the_formats_that_were_asked_for(predict, tmp_path, capsys):
    path = save(tmp_path / "a.b.png")
    assert predict(path, "--formats", "geojson,labels,csv") == 0
    out = tmp_path / "out"
    expected = {"a.b.geojson", "a.b.labels.png", "measurements.csv", "outputs.json"}
    assert {file.name for file in out.iterdir()} == expected
    with Image.open(out / "a.b.labels.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (40, 60) and pixels.max() == 1
    (feature,) = json.loads((out / "a.b.geojson").read_text())["features"]
    assert feature["properties"]["area"] == pixels.sum()
    (row,) = csv.DictReader((out / "measurements.csv").read_text().splitlines())
    assert row["area"] == str(pixels.sum()) and row["file_name"] == str(path)
    said = "1 object in 1 image: .geojson files, pictures of labels and measurements.csv are in"
    assert said in capsys.readouterr().out
    assert predict(path, "--formats", "picture,coco,csv") == 0  # It replaces its own files.


def test_formats_that_do_not_exist_are_refused(predict, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict(save(tmp_path / "a.png"), "--formats", "coco,svg")
    assert (
        "--formats: knows picture, coco, geojson, labels, csv, got 'svg'" in capsys.readouterr().err
    )


def test_labels_of_a_model_without_masks_are_refused_before_the_work(
    predict, tmp_path, run_directory, capsys
):
    loading.load(run_directory).config.model.mask_head = None
    assert predict(save(tmp_path / "a.png"), "--formats", "labels") == 2
    assert "needs masks" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_two_images_do_not_write_the_same_file(predict, tmp_path, capsys):
    paths = save(tmp_path / "a.png"), save(tmp_path / "a.labels.png")
    assert predict(*paths, "--formats", "picture,labels") == 2
    assert "two outputs would be" in capsys.readouterr().err
