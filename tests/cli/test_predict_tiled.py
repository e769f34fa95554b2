"""`maskrcnn-jax predict --tile` with a stand-in model that detects a quarter of each window."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli.main import main
from maskrcnn_jax.tiling import files
from maskrcnn_jax.weights import loading
from tests.cli.test_predict import save

NUM_WINDOWS = 6  # Of 64 pixels in an image of 100x160, from rows 0 and 36, columns 0, 48 and 96.


@pytest.fixture
def predict(run_directory, tmp_path):
    command = ["predict", "--weights", str(run_directory), "--output", str(tmp_path / "out")]
    return lambda *arguments: main([*command, *map(str, arguments)])


def results(tmp_path):
    return json.loads((tmp_path / "out" / "detections.json").read_text())


def test_windows_find_their_objects_and_the_image_is_drawn(predict, tmp_path, capsys):
    path = save(tmp_path / "7.png", (100, 160))
    assert predict(path, "--tile", 64) == 0
    found = results(tmp_path)
    corners = sorted(tuple(each["bbox"][:2]) for each in found)
    assert corners == sorted((x, y) for x in (0, 48, 96) for y in (0, 36))
    assert all(each["segmentation"]["size"] == [100, 160] for each in found)
    assert (tmp_path / "out" / "7.png").exists()
    assert f"{NUM_WINDOWS}/{NUM_WINDOWS}" in capsys.readouterr().err


def test_overlap_and_top_k(predict, tmp_path):
    path = save(tmp_path / "7.png", (100, 160))
    assert predict(path, "--tile", 64, "--overlap", 0, "--top-k", 4) == 0
    assert len(results(tmp_path)) == 4


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_large_files_are_read_by_parts_and_not_drawn(predict, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(files, "LARGE", 1000)
    pixels, path = np.zeros((100, 160, 3), np.uint8), tmp_path / f"big{suffix}"
    if suffix == ".npy":
        np.save(path, pixels)
    else:
        pytest.importorskip("tifffile").imwrite(path, pixels, tile=(16, 16), photometric="rgb")
    assert predict(path, "--tile", 64, "--formats", "picture,coco,geojson,csv") == 0
    assert len(results(tmp_path)) == NUM_WINDOWS
    written = {each.name for each in (tmp_path / "out").iterdir()}
    assert written == {"detections.json", "big.geojson", "measurements.csv", "outputs.json"}


def test_a_file_that_ends_early_costs_itself(predict, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "LARGE", 1000)
    save(tmp_path / "good.png", (100, 160))
    path = tmp_path / "cut.tif"
    pytest.importorskip("tifffile").imwrite(path, np.zeros((100, 160, 3), np.uint8), tile=(16, 16))
    path.write_bytes(path.read_bytes()[:-3000])
    assert predict(path, tmp_path / "good.png", "--tile", 64, "--formats", "coco") == 1
    assert "cut.tif" in capsys.readouterr().err
    assert len(results(tmp_path)) == NUM_WINDOWS
    assert predict(path, "--tile", 64, "--formats", "coco") == 2
    message = f"1 of 1 files failed:\n  cannot read the image {path}: it is cut off"
    assert message in capsys.readouterr().err


def test_a_tile_smaller_than_the_anchors_need(predict, tmp_path, capsys):
    """Resized to a short side of 48 pixels, which is less than a cell of P6."""
    loading.load("run").config.data.test_short_side = 48
    path = save(tmp_path / "7.png", (100, 160))
    assert predict(path, "--tile", 40) == 2
    message = "a tile of 40 pixels is too small: resized, it has 48 pixels, and the anchors of the"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tile", 64, "--overlap", 1), "overlap must be from 0 to 0.9, got 1"),
        (("--tile", 0), "--tile: must be a whole number of at least 1"),
        (("--overlap", 0.5), "--overlap is that of tiles: give --tile too"),
        (("--tile", 64, "--formats", "picture"), "is too large to be drawn: give --formats coco"),
    ],
)
def test_mistakes_end_in_one_message(predict, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(files, "LARGE", 1000)
    Image.fromarray(np.zeros((100, 160), np.uint8)).save(tmp_path / "7.png")
    try:
        code = predict(tmp_path / "7.png", *arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
