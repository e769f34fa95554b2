"""`maskrcnn-jax data prepare` and `data split` as a user calls them."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli.main import main
from maskrcnn_jax.data.prepared import PreparedDataset


@pytest.fixture
def command(tmp_path):
    """The arguments that prepare two images of 8x10 into the directory `out`."""
    entries = [{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 10} for i in (10, 20)]
    for entry in entries:
        Image.fromarray(np.full((8, 10, 3), entry["id"], np.uint8)).save(
            tmp_path / entry["file_name"]
        )
    found = {
        "id": 1,
        "image_id": 20,
        "category_id": 7,
        "bbox": [2, 1, 4, 4],
        "segmentation": [[2, 1, 6, 1, 6, 5]],
    }
    content = {"images": entries, "annotations": [found], "categories": [{"id": 7, "name": "cat"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    arguments = [
        "--images",
        tmp_path,
        "--annotations",
        tmp_path / "instances.json",
        "--split",
        "train",
    ]
    return ["data", "prepare", *map(str, arguments), "--output", str(tmp_path / "out")]


def test_the_second_run_finds_the_work_done(command, tmp_path, capsys):
    assert main(command) == 0
    first = capsys.readouterr()
    assert "2 images are in" in first.out and f"data.tfds_dir={tmp_path / 'out'}" in first.out
    assert "2/2" in first.err
    assert PreparedDataset(tmp_path / "out", "train", keep_empty=True).image_ids.tolist() == [
        10,
        20,
    ]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert main(command) == 0
    second = capsys.readouterr()
    assert (
        "nothing to do" in second.out
        and str(tmp_path / "instances.json") in second.out
        and second.err == ""
    )
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == files


def test_another_annotation_file_is_refused(command, tmp_path, capsys):
    assert main(command) == 0
    path = tmp_path / "instances.json"
    path.write_text(path.read_text().replace("cat", "dog"))
    assert main(command) == 2
    assert f"another annotation file than {path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(), "there is no file 20.jpg"),
        (lambda path: path.write_text("no image"), "image id 20: cannot read the image"),
        (lambda path: Image.new("RGB", (9, 8)).save(path), "20.jpg (image id 20) is 8x9 pixels"),
    ],
    ids=["missing", "broken", "other size"],
)
def test_a_bad_image_is_left_out_and_listed(command, tmp_path, capsys, spoil, message):
    spoil(tmp_path / "20.jpg")
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("maskrcnn-jax data:") == 1
    prepared = PreparedDataset(tmp_path / "out", "train", keep_empty=True)
    assert prepared.image_ids.tolist() == [10]


def test_the_split_has_to_be_one_that_training_knows(command, capsys):
    command[command.index("train")] = "test"
    with pytest.raises(SystemExit):
        main(command)
    assert "invalid choice: 'test'" in capsys.readouterr().err


@pytest.fixture
def division(command):
    """The arguments that divide the same two images."""
    arguments = [x for x in command[2:] if x not in ("--split", "train")]
    return ["data", "split", *arguments, "--fraction", "0.5"]


def test_annotations_are_divided_and_counted(division, tmp_path, capsys):
    assert main(division) == 0
    output = capsys.readouterr().out
    train, val = (
        json.loads((tmp_path / "out" / name).read_text()) for name in ("train.json", "val.json")
    )
    assert sorted(entry["id"] for part in (train, val) for entry in part["images"]) == [10, 20]
    empty = "val.json" if train["annotations"] else "train.json"
    assert f"{empty} has no cat" in output and f"are in {tmp_path / 'out'}" in output


def test_files_are_replaced_only_by_force(division, tmp_path, capsys):
    assert main(division) == 0
    written = (tmp_path / "out" / "train.json").read_text()
    for name in ("train.json", "val.json"):
        (tmp_path / "out" / "train.json").unlink(missing_ok=True)
        (tmp_path / "out" / name).write_text("mine")
        assert main(division) == 2
        assert f"{name} exists and was not written by" in capsys.readouterr().err
        assert (tmp_path / "out" / name).read_text() == "mine"
    assert main([*division, "--force"]) == 0
    assert (tmp_path / "out" / "train.json").read_text() == written


@pytest.mark.parametrize("name", ["train.json", "val.json"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_annotations_are_never_overwritten(
    division, tmp_path, monkeypatch, capsys, name, force
):
    source = (tmp_path / "instances.json").rename(tmp_path / name)
    before = source.read_bytes()
    monkeypatch.chdir(tmp_path)
    division[division.index(str(tmp_path / "instances.json"))] = (
        name  # The same file by a relative path.
    )
    division[division.index(str(tmp_path / "out"))] = str(tmp_path)
    assert main([*division, *force]) == 2
    assert f"{name} would overwrite what the command reads" in capsys.readouterr().err
    assert source.read_bytes() == before and len(list(tmp_path.glob("*.json"))) == 1


def test_annotations_are_checked_before_they_are_divided(division, tmp_path, capsys):
    (tmp_path / "20.jpg").unlink()
    assert main(division) == 2
    error = capsys.readouterr().err
    assert "1 images cannot be divided into two sets; image id 20: there is no file 20.jpg" in error
    assert not (tmp_path / "out").exists()
