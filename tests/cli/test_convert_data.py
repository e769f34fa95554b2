"""`maskrcnn-jax data convert` as a user calls it."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli.main import main

SHAPE = {"label": "Nuß [/]", "points": [[2, 2], [9, 2], [9, 9]], "shape_type": "polygon"}


@pytest.fixture
def command(tmp_path):
    """The arguments that convert a folder of LabelMe with a good and a bad shape."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "a.png")
    content = {"shapes": [SHAPE, SHAPE | {"points": [[1, 1]]}], "imagePath": "a.png"}
    (folder / "a.json").write_text(json.dumps(content))
    return ["data", "convert", str(folder), str(tmp_path / "out.json")]


def test_the_result_is_what_other_commands_take(command, tmp_path, capsys, caplog):
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Nuß [/]" in out and "1 object in 1 image, from labelme" in out
    assert (
        "objects left out, whose outline has fewer than 3 points: object shapes[1]" in caplog.text
    )
    arguments = ["--images", str(tmp_path / "in"), "--annotations", command[-1]]
    assert main(["data", "check", *arguments]) == 0
    assert main(["data", "browse", *arguments, "--output", str(tmp_path / "look")]) == 0
    assert "1 of 1 images are drawn" in capsys.readouterr().out


def test_a_missing_image_is_an_exit_code(command, tmp_path, capsys, caplog):
    (tmp_path / "in" / "b.json").write_text(json.dumps({"shapes": [SHAPE], "imagePath": "b.png"}))
    assert main(command) == 1
    assert "images left out, whose file is not in" in caplog.text
    assert "1 object in 1 image" in capsys.readouterr().out and (tmp_path / "out.json").exists()


def test_strict_writes_nothing(command, tmp_path, capsys):
    assert main([*command, "--strict"]) == 2
    assert "fewer than 3 points" in capsys.readouterr().err and not (tmp_path / "out.json").exists()


def test_only_own_files_are_replaced(command, tmp_path, capsys):
    assert main(command) == main(command) == 0
    (tmp_path / "out.json").write_text("mine")
    assert main(command) == 2
    assert "out.json exists and was not written by maskrcnn-jax data" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    source = tmp_path / "in" / "a.json"
    before = source.read_bytes()
    assert main([*command[:-1], str(source), "--force"]) == 2
    assert "would overwrite what the command reads" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_mistakes_are_one_message(command, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "absent"), command[-1]], "there is no file or folder"),
        ([command[-2], str(tmp_path / "no" / "out.json")], "make it first"),
        ([command[-2], command[-1], "--format", "yolo"], "there is no data.yaml"),
    ):
        assert main(["data", "convert", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out.json").exists()
