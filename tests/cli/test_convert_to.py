"""`maskrcnn-jax convert --to`: files for other libraries, with a report on their rules."""

import json

import pytest

from maskrcnn_jax import presets
from maskrcnn_jax.cli import convert as command
from maskrcnn_jax.cli import movement
from maskrcnn_jax.cli.main import main
from maskrcnn_jax.weights import detectron2, differences, files
from tests.weights.families import reduced, state_of

D2 = presets.detectron2_r50_fpn


@pytest.fixture
def source(tmp_path):
    """A file of Detectron2, of a small ResNet-18."""
    files.write(tmp_path / "in.safetensors", state_of(detectron2, reduced(D2(4))))
    return tmp_path / "in.safetensors"


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def test_a_file_for_the_same_library(source, tmp_path, capsys):
    assert convert(source, tmp_path / "out.pkl", "--to", "detectron2") == 0
    arrays = files.read(source).arrays
    found = files.read(tmp_path / "out.pkl").arrays
    assert arrays.keys() == found.keys()
    assert all(arrays[name].tobytes() == found[name].tobytes() for name in arrays)
    printed = capsys.readouterr().out
    assert f"written: {tmp_path / 'out.pkl'}, for Detectron2" in printed
    assert "| model.backbone.depth | 18 | 50 | MODEL.RESNETS.DEPTH: 18, " in printed
    assert "cannot be set" not in printed
    listed = json.loads((tmp_path / "outputs.json").read_text())["files"]["out.pkl"]
    assert listed["command"] == "maskrcnn-jax convert" and listed["sha256"]
    assert not list(tmp_path.glob(".*partial"))


def test_another_librarys_rules_are_listed(source, tmp_path, capsys):
    assert convert(source, tmp_path / "out.pth", "--to", "mmdet") == 0
    printed = capsys.readouterr().out
    assert "from mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py of MMDetection:" in printed
    assert "(model.limit_shrinking) | no | yes | cannot be set |" in printed
    assert "roi_head.{bbox,mask}_head.num_classes=3 |" in printed


def test_the_nearest_config_may_be_the_same(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(differences.BASES["detectron2"], "small.yaml", lambda: reduced(D2(4)))
    assert convert(source, tmp_path / "out.pkl", "--to", "detectron2") == 0
    printed = capsys.readouterr().out
    assert "no rule differs from small.yaml: Detectron2 detects the same" in printed


def test_mistakes_are_refused_and_nothing_is_written(source, tmp_path, capsys):
    before = source.read_bytes()
    for arguments, message in (
        ((tmp_path / "out.pkl",), "--to torchvision or detectron2 or mmdet writes"),
        ((tmp_path / "out.npz", "--to", "mmdet"), "must end in one of .pth"),
        ((tmp_path / "out.npz", "--images", source), "--images needs --to"),
        ((tmp_path / "out.pkl", "--to", "detectron2", "--images", "a.jpg"), "no image a.jpg"),
        ((tmp_path / "out.pth", "--to", "torchvision"), "backbone.stem_channels 4"),
        ((source, "--to", "torchvision", "--force"), "would overwrite what the command reads"),
    ):
        assert convert(source, *arguments) == 2, message
        assert message in capsys.readouterr().err
    assert source.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"in.safetensors"}


def test_a_file_of_others_stays_without_force(source, tmp_path, capsys):
    (tmp_path / "out.pkl").write_text("precious")
    assert convert(source, tmp_path / "out.pkl", "--to", "detectron2") == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out.pkl").read_text() == "precious"


def test_images_are_detected_with_both_rules(source, tmp_path, capsys, monkeypatch):
    seen = []

    def measure(here, there, paths):
        seen.append((here, there, paths))
        return [movement.Movement("a.jpg", 1, 1, 1, (0.0, 0.0), (0.0, 0.0), 1.0)]

    monkeypatch.setattr(command, "_detector", lambda *model: model)
    monkeypatch.setattr(movement, "measure", measure)
    (tmp_path / "a.jpg").touch()
    image = "--images", tmp_path / "a.jpg"
    assert convert(source, tmp_path / "out.pth", "--to", "mmdet", *image) == 0
    ((here, there, paths),) = seen
    assert here[0].model.roi.level_rule == "detectron2" and paths == [tmp_path / "a.jpg"]
    assert there[0].model.roi.level_rule == "mmdetection" and there[0].model.limit_shrinking
    assert there[0].model.backbone.depth == 18  # This can be set there.
    assert "| a.jpg | 1 | 1 | 1 |" in capsys.readouterr().out
    assert convert(source, tmp_path / "same.pkl", "--to", "detectron2", *image) == 0
    assert "detections do not move" in capsys.readouterr().out and len(seen) == 1
