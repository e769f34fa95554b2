"""Names in files of strangers do not steer the terminal that shows them."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli import exits
from maskrcnn_jax.cli.main import main
from tests.data.test_findings import HOSTILE


@pytest.fixture
def folder(tmp_path):
    """Three images, of which one is missing, and a category whose name moves the cursor."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in (1, 2)]
    images.append({"id": 3, "file_name": f"{HOSTILE}.png", "height": 20, "width": 30})
    for i in (1, 2):
        Image.fromarray(np.full((20, 30, 3), 99 * i, np.uint8)).save(tmp_path / f"{i}.png")
    found = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    found["segmentation"] = [[1, 1, 10, 1, 10, 10, 1, 10]]
    content = {"images": images, "annotations": [found]}
    content["categories"] = [{"id": 1, "name": HOSTILE}, {"id": 2, "name": "\u98df\u7269"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path


def assert_plain(capfd):
    out = "".join(capfd.readouterr())
    steering = [x for x in out if (ord(x) < 32 and x != "\n") or 127 <= ord(x) < 160]
    assert steering == [] and "\u202e" not in out
    return out


@pytest.mark.parametrize("action", ["split", "browse", "check", "statistics"])
def test_commands(folder, capfd, action):
    command = ["data", action, "--images", str(folder), "--annotations", str(folder / "a.json")]
    writes = action in ("split", "browse")
    code = main([*command, "--output", str(folder / "out")] if writes else command)
    assert code == 1
    out = assert_plain(capfd)
    assert "image id 3" in out
    if action != "check":
        assert "\u98df\u7269" in out  # Letters of any script stay.


def test_conversions(folder, capfd):
    shape = {"label": HOSTILE, "points": [[1, 1], [9, 1], [9, 9]]}
    shapes = [shape, shape | {"shape_type": HOSTILE}, shape | {"label": HOSTILE.upper()}]
    (folder / "in").mkdir()
    for name in ("1.png", HOSTILE):
        content = {"imagePath": name, "shapes": shapes}
        (folder / "in" / f"{ord(name[0])}.json").write_text(json.dumps(content))
    command = ["data", "convert", str(folder / "in"), str(folder / "b.json")]
    assert main([*command, "--images", str(folder)]) == 1
    out = assert_plain(capfd)
    assert "gnp" in out and "2 objects in 1 image" in out
    assert main([*command, "--images", str(folder), "--strict", "--force"]) == 2
    assert "gnp" in assert_plain(capfd)


def test_a_refusal(folder, capfd):
    command = ["data", "browse", "--images", str(folder), "--annotations", str(folder / "a.json")]
    assert main([*command, "--output", str(folder / "out"), "--category", "x"]) == 2
    assert "gnp" in assert_plain(capfd)
    exits.refuse(ValueError(HOSTILE), "train.py")
    assert "gnp" in assert_plain(capfd)
