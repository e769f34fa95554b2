"""One bad file costs itself: `evaluate`, `data split`, `data check`, `data prepare`."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from maskrcnn_jax.cli.main import main
from maskrcnn_jax.data import coco
from maskrcnn_jax.data.prepared import PreparedDataset
from maskrcnn_jax.data.shapes import ShapesDataset

SIDE = 64
CONFIG = """
from maskrcnn_jax.config import Config

def get_config():
    config = Config(test_batch_size=2)
    config.data.val_images, config.data.val_annotations = {images!r}, {annotations!r}
    config.data.test_short_side = config.data.test_max_long_side = 64
    config.data.test_buckets, config.data.max_instances = ((64, 64),), 8
    config.data.num_threads = 1
    config.detection.num_detections, config.detection.score_threshold = 5, 0.0
    return config
"""


@pytest.fixture
def folder(tmp_path):
    """Five images whose upper left quarter is an object, as the stand-in model says."""
    half = SIDE // 2
    entries, objects = [], []
    for i in range(1, 6):
        pixels = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        entries.append({"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE})
        found = {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, half, half]}
        objects.append(found | {"segmentation": [[0, 0, half, 0, half, half, 0, half]]})
    content = {"images": entries, "annotations": objects}
    content["categories"] = ShapesDataset.categories.to_json()
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    config = CONFIG.format(images=str(tmp_path), annotations=str(path))
    (tmp_path / "config.py").write_text(config)
    return tmp_path


def spoil_pixels(path):
    """Leaves the header and the end of a PNG, so that only decoding shows that it is broken."""
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\0" * 500 + content[700:])


def evaluate(folder, run_directory, *arguments):
    command = ["evaluate", "--weights", str(run_directory), "--config", str(folder / "config.py")]
    return main([*command, "--output", str(folder / "out"), *arguments])


@pytest.mark.parametrize("augment", [[], ["--augment"]])
@pytest.mark.parametrize(
    "spoil", [lambda path: path.unlink(), spoil_pixels], ids=["header", "pixels"]
)
def test_evaluate_gives_the_rest_and_a_list(folder, run_directory, capsys, spoil, augment):
    assert evaluate(folder, run_directory, *augment) == 0
    whole = json.loads((folder / "out" / "evaluation.json").read_text())
    assert whole["bbox"]["AP"] > 0.6
    capsys.readouterr()
    spoil(folder / "3.png")
    assert evaluate(folder, run_directory, "--report", str(folder / "r.html"), *augment) == 1
    error = capsys.readouterr().err
    assert "1 of 5 images are missing in these numbers:\n  image id 3: " in error
    rest = json.loads((folder / "out" / "evaluation.json").read_text())
    if not augment:  # The model finds the same in each image, so one less changes nothing.
        assert (
            rest["bbox"]["AP"] == whole["bbox"]["AP"] and rest["segm"]["AP"] == whole["segm"]["AP"]
        )
    found = json.loads((folder / "out" / "detections.json").read_text())
    assert {entry["image_id"] for entry in found} == {1, 2, 4, 5}
    assert (folder / "r.html").exists()


def test_evaluate_refuses_if_most_are_bad(folder, run_directory, capsys):
    for i in (1, 2, 3):
        (folder / f"{i}.png").unlink()
    assert evaluate(folder, run_directory) == 2
    assert "3 of 5 validation images cannot be used" in capsys.readouterr().err


def data(action, folder, *arguments):
    source = ["--images", str(folder), "--annotations", str(folder / "instances.json")]
    return main(["data", action, *source, *arguments])


def test_check_lists_all_bad_files(folder, capsys):
    assert data("check", folder) == 0
    assert "5 of 5 images can be used, by their pixels" in capsys.readouterr().out
    (folder / "2.png").write_text("<html>")
    spoil_pixels(folder / "4.png")
    assert data("check", folder) == 1
    captured = capsys.readouterr()
    assert "3 of 5 images can be used" in captured.out
    assert "2 of 5 images cannot be used:" in captured.err
    assert "image id 2: " in captured.err and "image id 4: " in captured.err
    assert data("check", folder, "--headers") == 1
    assert "4 of 5 images can be used, by their headers" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["check", "browse", "convert"])
def test_a_package_to_install_is_named_once(folder, capsys, caplog, monkeypatch, action):
    tifffile = pytest.importorskip("tifffile")
    content = json.loads((folder / "instances.json").read_text())
    for entry in content["images"][:2]:
        entry["file_name"] = f"{entry['id']}.tif"
        tifffile.imwrite(folder / entry["file_name"], np.zeros((SIDE, SIDE, 5), np.uint16))
    (folder / "instances.json").write_text(json.dumps(content))
    regions = [{"shape_attributes": {"name": "circle", "cx": 9, "cy": 9, "r": 5}}]
    entries = [{"filename": x["file_name"], "regions": regions} for x in content["images"]]
    (folder / "via.json").write_text(json.dumps({x["filename"]: x for x in entries}))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    commands = {"check": ["--headers"], "browse": ["--output", str(folder / "out")]}
    if action == "convert":
        assert main(["data", "convert", str(folder / "via.json"), str(folder / "coco.json")]) == 1
    else:
        assert data(action, folder, *commands[action]) == 1
    told = "".join(capsys.readouterr()) + caplog.text
    assert told.count("pip install 'maskrcnn-jax[tiff]'") == 1
    assert "1.tif" in told and "2.tif" in told


def test_split_leaves_bad_files_out(folder, capsys):
    (folder / "2.png").unlink()
    assert data("split", folder, "--output", str(folder / "out")) == 1
    assert "1 of 5 images cannot be used:\n  image id 2: " in capsys.readouterr().err
    parts = [json.loads((folder / "out" / f"{x}.json").read_text()) for x in ("train", "val")]
    assert sorted(x["id"] for part in parts for x in part["images"]) == [1, 3, 4, 5]


def test_prepare_leaves_bad_files_out(folder, capsys):
    spoil_pixels(folder / "2.png")
    assert data("prepare", folder, "--split", "val", "--output", str(folder / "out")) == 1
    assert "1 of 5 images cannot be used:\n  image id 2: " in capsys.readouterr().err
    prepared = PreparedDataset(folder / "out", "val", keep_empty=True)
    assert prepared.image_ids.tolist() == [1, 3, 4, 5]
    assert [x["id"] for x in prepared.annotations()["images"]] == [1, 3, 4, 5]
    assert prepared.without([3]).image_ids.tolist() == [1, 4, 5]
    assert [len(labels) for labels in prepared.without([3]).labels] == [1, 1, 1]


def test_one_photograph_stays_on_one_side(folder):
    content = json.loads((folder / "instances.json").read_text())
    names = ["1.png", "./1.png", "2.png", "copy.PNG", "3.png"]
    (folder / "copy.png").write_bytes((folder / "2.png").read_bytes())
    for entry, name in zip(content["images"], names, strict=True):
        entry["file_name"] = name
    (folder / "instances.json").write_text(json.dumps(content))
    for seed in range(6):
        arguments = ["--seed", str(seed), "--output", str(folder / "out"), "--fraction", "0.4"]
        assert data("split", folder, *arguments) == 0
        parts = [json.loads((folder / "out" / f"{x}.json").read_text()) for x in ("train", "val")]
        sides = [{x["file_name"] for x in part["images"]} for part in parts]
        assert sides[0] | sides[1] == set(names) and not sides[0] & sides[1]
        for pair in ({"1.png", "./1.png"}, {"2.png", "copy.PNG"}):
            assert pair <= sides[0] or pair <= sides[1]


@pytest.mark.parametrize("name", ["screw [M6]", "nut [/]", "bolt [bold]x[/bold] :apple:"])
def test_names_are_no_markup(folder, capsys, name):
    content = json.loads((folder / "instances.json").read_text())
    content["categories"] = [{"id": 1, "name": name}, {"id": 2, "name": f"{name} [large]"}]
    (folder / "instances.json").write_text(json.dumps(content))
    assert data("split", folder, "--output", str(folder / "out")) == 0
    split = capsys.readouterr().out
    assert data("browse", folder, "--output", str(folder / "out")) == 0
    for printed in (split, capsys.readouterr().out):
        words = printed.replace("│", " ").split()
        assert all(word in words for word in f"{name} [large]".split())


def test_crowds_that_are_objects(folder, capsys, caplog):
    content = json.loads((folder / "instances.json").read_text())
    for entry in content["annotations"][:3]:
        entry["iscrowd"] = 1
    (folder / "instances.json").write_text(json.dumps(content))
    assert data("split", folder, "--output", str(folder / "out")) == 0
    assert "3 of 5 annotations are crowds (iscrowd 1)" in caplog.text
    assert "data.crowd=objects takes them as such: annotation id 1, 2, 3" in caplog.text
    dataset = coco.CocoDataset(folder, folder / "instances.json", keep_empty=False, crowd="objects")
    assert [len(labels) for labels in dataset.labels] == [1] * 5
    assert not any(x["iscrowd"] for x in dataset.annotations()["annotations"])
