"""`maskrcnn-jax data statistics` as a user calls it."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli.main import main


@pytest.fixture
def command(tmp_path):
    """The arguments for a black and a white image with two equal objects in the second."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 60, "width": 80} for i in (1, 2)]
    for i in (1, 2):
        Image.fromarray(np.full((60, 80, 3), 255 * (i - 1), np.uint8)).save(tmp_path / f"{i}.png")
    outline = [[10, 10, 40, 10, 40, 30, 10, 30]]
    own = {"image_id": 2, "category_id": 7, "bbox": [10, 10, 30, 20], "segmentation": outline}
    content = {"images": images, "annotations": [own | {"id": i} for i in (5, 6)]}
    content["categories"] = [{"id": 7, "name": "nut [/]"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    arguments = ["--images", str(tmp_path), "--annotations", str(tmp_path / "a.json")]
    return ["data", "statistics", *arguments]


def rows(text):
    """The cells of the printed tables by their first one."""
    lines = [[x.strip() for x in line.strip("│ ").split("│")] for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) > 1}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_numbers_are_printed(command, capsys):
    assert main([*command, "--set", "data.test_short_side=120"]) == 0
    out = capsys.readouterr().out
    found = rows(out)
    assert found["0"] == found["2"] == ["0.5", "0.5"]
    assert found["height of images"] == ["60"] * 6
    assert found["objects per image"] == ["0", "0.2", "1", "1.8", "2", "1"]
    assert found["side of objects (root of area)"][2] == "24.5"
    assert found["the same, images resized"][2] == "49"
    assert found["64"] == ["2", "2", "0"] and found["all"][0] == "2"
    assert found["nut [/]"] == ["7", "2", "1"]
    assert found["images without objects"] == ["1", "1"]
    copies = [cells for name, cells in found.items() if "another of the category" in name]
    assert copies == [["1", "6"]]
    assert "\n  config.model.image_mean = (0.5, 0.5, 0.5)\n" in out
    assert "'--config.model.image_std=(0.5, 0.5, 0.5)'" in out


def test_some_images_are_enough(command, capsys):
    assert main([*command, "--count", "1"]) == 0
    assert "over 1 images" in capsys.readouterr().out


def test_the_page_is_written_and_replaced(command, tmp_path, capsys):
    page = tmp_path / "out" / "page.html"
    command += ["--report", str(page)]
    assert main(command) == main(command) == 0
    assert "nut [/]" in page.read_text() and f"the page is {page}" in capsys.readouterr().out
    page.write_text("mine")
    assert main(command) == 2 and page.read_text() == "mine"
    assert main([*command, "--force"]) == 0


def test_a_bad_image_is_named(command, tmp_path, capsys):
    (tmp_path / "1.png").write_text("no picture")
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "left out of the channels: image id 1" in out and rows(out)["0"][0] == "1"


def test_mistakes_are_one_message(command, tmp_path, capsys):
    content = json.loads((tmp_path / "a.json").read_text()) | {"images": [], "annotations": []}
    (tmp_path / "none.json").write_text(json.dumps(content))
    for extra, message in (
        (["--report", "page.txt"], "has to be a file that ends in .html"),
        (["--set", "data.absent=1"], "names no field"),
        (["--annotations", str(tmp_path / "none.json")], "there are no images"),
    ):
        assert main([*command, *extra]) == 2
        assert message in capsys.readouterr().err


def write_arrays(folder, *arrays):
    """Replaces the images of `command` by arrays."""
    content = json.loads((folder / "a.json").read_text())
    for entry, array in zip(content["images"], arrays, strict=True):
        entry["file_name"] = f"{entry['id']}.npy"
        np.save(folder / entry["file_name"], array)
    (folder / "a.json").write_text(json.dumps(content))


def test_settings_for_other_channels_and_types(command, tmp_path, capsys):
    levels = np.array([0, 13107, 65535, 6553], np.uint16)
    write_arrays(tmp_path, *(np.broadcast_to(levels * i, (60, 80, 4)) for i in (0, 1)))
    page = tmp_path / "page.html"
    assert main([*command, "--report", str(page)]) == 0
    out = capsys.readouterr().out
    mean, std = "(0, 0.1, 0.5, 0.05)", "(1, 0.1, 0.5, 0.05)"  # The first channel does not vary.
    assert f"\n  config.model.image_mean = {mean}\n" in out
    assert f"\n  config.model.image_std = {std}\n" in out
    assert '\n  config.data.image_dtype = "float32"\n' in out
    assert f"'--config.model.image_std={std}' '--config.data.image_dtype=float32'" in out
    assert "image_dtype" in page.read_text() and std in page.read_text()


def test_the_number_of_channels_is_that_of_the_first_images_or_given(command, tmp_path, capsys):
    write_arrays(tmp_path, np.zeros((60, 80), np.uint8), np.full((60, 80, 3), 255, np.uint8))
    assert main(command) == 0  # Grey images among coloured ones become RGB.
    assert rows(capsys.readouterr().out)["2"][0] == "0.5"
    assert main([*command, "--channels", "1"]) == 1
    message = "2.npy: it has 3 channels; expected 1, as image_mean has"
    assert message in capsys.readouterr().out
    assert main([*command, "--channels", "13"]) == 2
    assert "it has 1 channel; expected 13" in capsys.readouterr().err
